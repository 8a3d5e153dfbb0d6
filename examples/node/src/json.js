/** JSON text; what JSON has no words for at all would make a line that the worker can not answer. */
export function toJson(value) {
  const json = JSON.stringify(value);
  if (json === undefined) throw new TypeError(`A ${typeof value} is no JSON value.`);
  return json;
}
