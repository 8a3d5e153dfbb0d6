[
  inputs: ["*.exs", "{lib,test}/**/*.{ex,exs}", "../../tests/clients/drivers/*.exs"],
  line_length: 110
]
