import { FileError, buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create({ maxStorage: 1024 * 1024, arguments: ["in.txt"] });
await sandbox.start();

await sandbox.files.write("in.txt", "hello");
await sandbox.loadScript(`
import sys
with open(sys.argv[1]) as file, open("out.txt", "w") as out:
    out.write(file.read().upper())
`);
console.log(await sandbox.files.readText("out.txt"));
for (const { name, size } of await sandbox.files.list()) console.log(name, size);
try {
  await sandbox.files.read("none.txt");
} catch (error) {
  if (error instanceof FileError) console.log(error.reason, error.path);
}
sandbox.close();
