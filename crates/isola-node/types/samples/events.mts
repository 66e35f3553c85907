import { buildTemplate } from "isola-core";

const template = await buildTemplate("python");
const sandbox = await template.create();
await sandbox.start();
await sandbox.loadScript(
  "import logging, sys\n" +
    "from sandbox import logging as _\n" +
    "def compute():\n" +
    " print('out')\n" +
    " print('err', file=sys.stderr)\n" +
    " logging.warning('careful')\n" +
    " yield 1\n" +
    " yield {'two': 2}\n" +
    " raise ValueError('over')\n",
);

for await (const event of sandbox.runStream("compute")) {
  switch (event.type) {
    case "result":
      console.log("intermediate:", event.data);
      break;
    case "end":
      console.log("final:", event.data);
      break;
    case "stdout":
      console.log("stdout:", event.data);
      break;
    case "stderr":
      console.error("stderr:", event.data);
      break;
    case "error":
      console.error("error:", event.data);
      break;
    case "log":
      console.log("log:", event.data);
      break;
  }
}
