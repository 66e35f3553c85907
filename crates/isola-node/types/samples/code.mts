import { buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create();
await sandbox.start();

await sandbox.runCode("import math\nradius = 2");
const execution = await sandbox.runCode("print('area')\nmath.pi * radius ** 2", {
  onStdout: (text) => console.log("printed:", text.trimEnd()),
});
console.log(execution.text, execution.executionCount);
const failed = await sandbox.runCode("radius / 0", { timeout: 1000 });
console.log(failed.error?.name);

const context = await sandbox.contexts.create();
console.log((await sandbox.runCode("radius = 3; radius", { context })).text);
sandbox.close();
