# What workers that are killed on purpose make the client say is shown only when a test fails.
ExUnit.start(capture_log: true)
