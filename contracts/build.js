// Compiles AuditTrail.sol with the npm package solc, whose directory is the first argument, and writes what is committed beside
// it: node build.js NODE_MODULES [--check]
"use strict";
const fs = require("fs");
const path = require("path");

const [modules, check] = process.argv.slice(2);
const solc = require(path.resolve(modules, "solc"));
const file = (name) => path.join(__dirname, name);
const settings = {
  // Any chain that has London's fees runs it: no opcode is later.
  evmVersion: "london",
  viaIR: true,
  optimizer: { enabled: true, runs: 1000000 },
  // No path and no comment of the source is in the code's tail.
  metadata: { bytecodeHash: "none", appendCBOR: false },
};
const input = {
  language: "Solidity",
  sources: { "AuditTrail.sol": { content: fs.readFileSync(file("AuditTrail.sol"), "utf8") } },
  settings: {
    ...settings,
    outputSelection: {
      "*": {
        "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "storageLayout"],
      },
    },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const e of output.errors ?? []) console.error(e.formattedMessage);
if ((output.errors ?? []).length > 0) process.exit(1);
const contract = output.contracts["AuditTrail.sol"].AuditTrail;
const storage = Object.fromEntries(contract.storageLayout.storage.map((s) => [s.label, Number(s.slot)]));
const built = {
  compiler: solc.version(),
  settings,
  abi: contract.abi,
  storage,
  bytecode: "0x" + contract.evm.bytecode.object,
  deployedBytecode: "0x" + contract.evm.deployedBytecode.object,
};
const text = JSON.stringify(built, null, 1) + "\n";
if (check === "--check") {
  if (text !== fs.readFileSync(file("AuditTrail.json"), "utf8")) {
    console.error("AuditTrail.json is not what AuditTrail.sol compiles to");
    process.exit(1);
  }
  console.log("AuditTrail.json is what AuditTrail.sol compiles to, by solc " + solc.version());
} else {
  fs.writeFileSync(file("AuditTrail.json"), text);
}
