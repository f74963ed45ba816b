// Opens a logit store with h5wasm, the engine of h5web, and prints as JSON what such a viewer would find.
// Run from a folder with node_modules/h5wasm, where packages are looked for: node --input-type=module - FILE < this file
import h5wasm from "h5wasm/node";

await h5wasm.ready;
const file = new h5wasm.File(process.argv[2], "r");
const attribute = (item, name) => item.attrs[name]?.value;

// NeXus: from the root, `default` names the child to go to, until a group of class NXdata is reached.
let place = "";
for (let group = file; attribute(group, "NX_class") !== "NXdata"; group = file.get(place)) {
  const next = attribute(group, "default");
  if (next === undefined) break;
  place += `/${next}`;
}

const plots = {};
const unreadable = [];
const visit = (name) => {
  const item = file.get(name);
  if (item instanceof h5wasm.Group) {
    if (attribute(item, "NX_class") === "NXdata") {
      const signal = attribute(item, "signal");
      plots[name] = {
        signal,
        shape: item.get(signal).shape,
        axes: attribute(item, "axes"),
        title: item.get("title").value,
      };
    }
    for (const child of item.keys()) visit(`${name === "/" ? "" : name}/${child}`);
  } else if (item.shape.every((length) => length > 0) && (item.value === null || item.value === undefined)) {
    unreadable.push(name);
  }
};
visit("/");

console.log(
  JSON.stringify({
    default: place,
    plots,
    unreadable,
    ids: file.get("clips/id").value,
    logits: Array.from(file.get("logits").value),
    flip: Array.from(file.get("views/flip").value),
  }),
);
file.close();
