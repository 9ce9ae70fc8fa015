// Sends numbered events with @fluent-org/logger and waits for each one's acknowledgement.
// node forward.js '{"port":…, "count":…, "mode":"PackedForward", "sharedKey":…, "username":…, "password":…, "ca":FILE}'
const fs = require("fs");
const { FluentClient, EventTime } = require("@fluent-org/logger");

const o = JSON.parse(process.argv[2]);
const client = new FluentClient("app", {
  eventMode: o.mode,
  ack: { ackTimeout: 20000 },
  socket: {
    host: "localhost",
    port: o.port,
    timeout: 20000,
    ...(o.ca ? { tls: { ca: fs.readFileSync(o.ca) } } : {}),
  },
  ...(o.sharedKey
    ? { security: { clientHostname: "client", sharedKey: o.sharedKey, username: o.username, password: o.password } }
    : {}),
  onSocketError: (e) => console.error(String(e)),
});

(async () => {
  let acknowledged = 0;
  const all = [];
  for (let n = 0; n < o.count; n++) {
    const event = { n, actor: "bob", mode: o.mode, half: 0.5, list: [1, null, "é"] };
    all.push(client.emit("audit", event, new EventTime(1700000000, n)).then(() => acknowledged++));
  }
  await Promise.race([
    Promise.allSettled(all),
    new Promise((r) => setTimeout(r, o.wait || 20000)),
  ]);
  console.log(JSON.stringify({ acknowledged }));
  process.exit(0);
})();
