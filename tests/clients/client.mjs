// A client of the TypeScript SDK, of either line: goes through one sandbox and prints, one JSON line per step, what
// it saw. Arguments: the folder with node_modules, the mode (v1, legacy, auto or a protocol version), and a JSON object
// with the URLs, the sandbox's root and the command that is to be cancelled.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, mode, given] = process.argv.slice(2);
const { filesystem, terminal, nowhere, root, sleep, cancelled } = JSON.parse(given);
const locate = createRequire(pathToFileURL(`${folder}/`));
const load = async (name) => import(pathToFileURL(locate.resolve(name)));
const say = (step, seen) => console.log(JSON.stringify({ step, ...seen }));

async function library() {
  if (mode !== "v1") return load("@modelcontextprotocol/client");
  const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  return { Client, StreamableHTTPClientTransport };
}

const { Client, StreamableHTTPClientTransport } = await library();
const pinned = /^\d/.test(mode);
const options = mode === "v1" ? {} : { versionNegotiation: { mode: pinned ? { pin: mode } : mode } };

async function open(url) {
  const client = new Client({ name: "test", version: "1" }, options);
  const transport = new StreamableHTTPClientTransport(new URL(url));
  await client.connect(transport);
  return { client, transport };
}

async function close({ client, transport }) {
  if (transport.sessionId) await transport.terminateSession();
  await client.close();
}

const call = async ({ client }, name, args, ...more) => client.callTool({ name, arguments: args }, ...more);
const text = (result) => result.content.map((part) => part.text).join("\n");

let files = await open(filesystem);
const { tools } = await files.client.listTools();
say("list", { tools: Object.fromEntries(tools.map((tool) => [tool.name, tool.inputSchema])) });

const written = "naïve ☃ 漢字 👩‍🚀 \u2028\n";
const path = `${root}/ümläut 漢字.txt`;
await call(files, "filesystem_write_file", { path, content: written });
say("unicode", { same: text(await call(files, "filesystem_read_text_file", { path })) === written });

const missing = await call(files, "filesystem_read_text_file", { path: `${root}/none` });
say("error", { isError: missing.isError === true, text: text(missing) });

try {
  const unknown = await call(files, "no_such_tool", {});
  say("unknown", { isError: unknown.isError === true, text: text(unknown) });
} catch (error) {
  say("unknown", { isError: true, text: String(error) });
}

const large = "0123456789abcdé\n".repeat(3 << 16);
await call(files, "filesystem_write_file", { path: `${root}/large`, content: large });
say("large", { same: text(await call(files, "filesystem_read_text_file", { path: `${root}/large` })) === large });

const numbers = [...Array(20).keys()];
const answers = await Promise.all(
  numbers.map(async (number) => {
    const own = `${root}/${number}.txt`;
    await call(files, "filesystem_write_file", { path: own, content: `this is ${number}` });
    return text(await call(files, "filesystem_read_text_file", { path: own }));
  }),
);
say("parallel", { same: answers.every((answer, number) => answer === `this is ${number}`) });

const session = files.transport.sessionId;
await close(files);
say("session", { had: session !== undefined });
files = await open(filesystem);
say("reconnect", { same: text(await call(files, "filesystem_read_text_file", { path: `${root}/7.txt` })) === "this is 7" });

if (sleep) {
  const shell = await open(terminal);
  say("servers", { text: text(await call(shell, "run_command", { command: "cat 3.txt" })) });
  const controller = new AbortController();
  const signal = { signal: controller.signal };
  const more = mode === "v1" ? [undefined, signal] : [signal];
  const running = call(shell, "run_command", { command: sleep }, ...more).then(
    () => ({ cancelled: false }),
    (error) => ({ cancelled: true, text: String(error) }),
  );
  say("running", {});
  for await (const line of process.stdin) if (String(line).includes(cancelled)) break;
  controller.abort("enough");
  say("cancel", await running);
  say("after", { text: text(await call(shell, "run_command", { command: "echo still here" })) });
  await close(shell);
}
await close(files);

try {
  await open(nowhere);
  say("nowhere", { failed: false });
} catch (error) {
  say("nowhere", { failed: true, text: String(error) });
}
process.exit(0);
