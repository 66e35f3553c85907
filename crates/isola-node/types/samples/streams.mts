import { StreamArg, StreamFullError, buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create();
await sandbox.start();
await sandbox.loadScript(
  "async def total(rows, factor=1):\n" +
    " total = 0\n" +
    " async for row in rows:\n" +
    "  total += row['n']\n" +
    " return total * factor\n",
);

async function* rows() {
  for (let n = 0; n < 1000; n += 1) yield { n };
}

console.log(await sandbox.run("total", [StreamArg.from(rows(), { capacity: 100 })], { factor: 2 }));
console.log(await sandbox.run("total", [], { rows: StreamArg.from([{ n: 1 }, { n: 2 }]) }));

const stream = new StreamArg({ capacity: 1 });
stream.push({ n: 1 });
try {
  stream.push({ n: 2 });
} catch (error) {
  if (error instanceof StreamFullError) console.log(error.code);
}
const running = sandbox.run("total", [stream]);
await stream.send({ n: 3 });
stream.end();
console.log(await running);
