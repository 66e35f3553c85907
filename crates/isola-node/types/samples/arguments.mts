import { buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create();
await sandbox.start();
await sandbox.loadScript(
  "def greet(name, greeting='Hello'):\n return f'{greeting} {name}'\n" +
    "def echo(value):\n return value\n",
);

console.log(await sandbox.run("greet", ["World"]));
console.log(await sandbox.run("greet", ["World"], { greeting: "Hey" }));
await named();
console.log(await sandbox.run("echo", [{ hello: "world" }]));

import { Arg } from "isola-core";

async function named() {
const result = await sandbox.run("greet", [
  new Arg("World", "name"),
  new Arg("Hi", "greeting"),
]);
console.log(result);
}
