// One user: a session over as many connections as it takes, as docs/protocol.md has it.

import exec from 'k6/execution';
import { WebSocket } from 'k6/websockets';
import ws from 'k6/ws';
import { Feed, sleep } from './feed.js';
import { Ledger } from './ledger.js';
import * as metrics from './metrics.js';

const SUBPROTOCOL = 'segmill.v1';
// A service that says nothing for so long hangs.
const SILENCE_MS = 60_000;
// So many connections in a row without a receipt are the end of a session.
const FRUITLESS = 5;
const FULL = 1013;

// Streams the clip once, as soon as there is room for it. `ask`: `url`, `headers`, and `start`, the first message.
export async function stream(ask, file, clip) {
  let user = begin(ask, file, clip);
  let turnedAway = 0;
  let refused = false;
  for (let fruitless = 0; fruitless < FRUITLESS; fruitless++) {
    const receipts = user.ledger.receipts.segments;
    const end = await connect(user);
    if (user.ledger.receipts.segments > receipts) fruitless = 0;
    const full = end.opened ? end.code === FULL : await isTurnedAway(ask, end);
    if (end.opened || full) metrics.sessionsRejected.add(Boolean(full));
    if (user.ledger.done) break;
    if (full) {
      turnedAway += 1;
      await sleep(Math.max(end.retryAfter ?? 0, Math.min(30, 2 ** (turnedAway - 1))) * 1000 * (1 + Math.random() / 4));
      if (user.resume !== null) continue;
      // Nothing has been made of it, so nothing is lost: it begins anew, while the test lasts.
      if (exec.scenario.progress >= 1) return;
      user = begin(ask, file, clip);
      fruitless = -1;
    } else if (end.error && !end.error.retryable) {
      console.error(`session ended by ${end.error.code}: ${end.error.message}`);
      refused = true;
      break;
    } else {
      metrics.reconnects.add(1, { why: end.moved ?? 'lost' });
      if (!end.moved) console.warn(`connection lost: ${end.code} ${end.why}`);
      await sleep(end.moved ? 0 : 250 * 2 ** fruitless);
    }
  }
  user.ledger.settle(refused);
}

function begin(ask, file, clip) {
  const ledger = new Ledger(clip);
  return { ask, clip, ledger, feed: new Feed(file, clip, ledger), resume: null };
}

// One connection, until it is closed: whether it was `opened`, the close's `code`, `why`, the reason of `moved`, and an
// `error` that is fatal. What it brings goes to the user's ledger, and to `resume`.
async function connect(user) {
  const { ledger, feed, ask } = user;
  const end = { opened: false, code: 0, why: '', moved: null, error: null };
  let feeding = null;
  ledger.clear();
  const socket = new WebSocket(ask.url, [SUBPROTOCOL], { headers: ask.headers, tags: { name: 'stream' } });
  socket.binaryType = 'arraybuffer';
  await new Promise((closed) => {
    let heard = Date.now();
    const watch = setInterval(() => {
      if (Date.now() - heard < SILENCE_MS) return;
      end.why = 'silence';
      socket.close();
    }, 5000);
    const texts = {
      ready: ({ limits }) => {
        end.opened = true;
        socket.send(JSON.stringify({ ...ask.start, ...(user.resume && { resume: { token: user.resume.token } }) }));
        feeding = feed.run(socket, user.resume ?? { set_up_bytes: user.clip.set_up, offset: user.clip.set_up }, limits.message_bytes);
      },
      tracks: (message) => ledger.tracks(message),
      receipt: (message, at) => {
        user.resume = message.resume ?? user.resume;
        ledger.receipt(message, at);
      },
      moved: (message) => {
        user.resume = message.resume;
        end.moved = message.reason;
      },
      error: (message) => {
        if (message.fatal) end.error = message;
      },
      done: (message) => ledger.finished(message),
    };
    const binaries = {
      init: (header, payload) => ledger.init(header, payload),
      segment: (header, payload, at) => ledger.segment(header, payload, at),
    };
    socket.onmessage = ({ data, timestamp }) => {
      heard = Date.now();
      if (typeof data === 'string') {
        const message = JSON.parse(data);
        texts[message.type]?.(message, timestamp);
      } else {
        const { header, payload } = parts(data);
        binaries[header.type]?.(header, payload, timestamp);
      }
    };
    socket.onerror = ({ error }) => {
      end.why = end.why || String(error);
    };
    socket.onclose = ({ code, reason }) => {
      end.code = code ?? 0;
      end.why = end.why || reason;
      clearInterval(watch);
      closed();
    };
  });
  await feeding;
  return end;
}

// Four bytes, big-endian, the length of a JSON header; the header; the payload.
function parts(data) {
  const length = new DataView(data).getUint32(0);
  const header = String.fromCharCode(...new Uint8Array(data, 4, length));
  return { header: JSON.parse(header), payload: data.slice(4 + length) };
}

// Whether an upgrade was refused with 429 or 503; then `end` has `retryAfter`, in seconds. k6/websockets does not tell the
// status of a refusal: the handshake is made again by k6/ws, which does.
async function isTurnedAway(ask, end) {
  if (!end.why.includes('bad handshake')) return false;
  const headers = { ...ask.headers, 'Sec-WebSocket-Protocol': SUBPROTOCOL };
  const { status, headers: answer } = ws.connect(ask.url, { headers, tags: { name: 'refused' } }, (socket) => socket.close());
  end.retryAfter = Number(answer?.['Retry-After'] ?? 0);
  if ([101, 429, 503].includes(status)) return true;
  end.error = { code: `HTTP ${status}`, message: 'the upgrade was refused', retryable: status === 0 };
  return false;
}
