import { buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create();
await sandbox.start();

await sandbox.evaluate("x = 20");
console.log(await sandbox.evaluate("x + 1"));
for await (const event of sandbox.evaluateStream("print('out')\n(i * i for i in range(3))")) {
  console.log(event.type, event.data);
}
sandbox.close();
