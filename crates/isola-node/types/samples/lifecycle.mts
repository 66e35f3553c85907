import { buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create();

try {
  await sandbox.start();
  await sandbox.loadScript("def hello(name):\n return f'hello {name}'");
  const result = await sandbox.run("hello", ["world"]);
  console.log(result);
} finally {
  sandbox.close();
}
