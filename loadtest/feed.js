// Sends a clip's bytes as an encoder would: each fragment once it is complete, by the wall clock from the first on.

import { SeekMode } from 'k6/experimental/fs';
import * as metrics from './metrics.js';

const CHANNEL = 0;

export class Feed {
  // `file`: of k6/experimental/fs, of which all users share the bytes. `clip`: as `index` makes it.
  constructor(file, clip, ledger) {
    this.file = file;
    this.clip = clip;
    this.ledger = ledger;
    this.begunAt = null;
  }

  // Sends through `socket` until there is no more or it closes: the first `set_up_bytes`, then those from `offset` on.
  // What was due meanwhile goes at once. At most `limit` bytes a message.
  async run(socket, { set_up_bytes, offset }, limit) {
    const now = Date.now();
    this.begunAt = this.begunAt ?? now;
    this.ledger.begun(this.begunAt);
    const open = () => socket.readyState === 1;
    const send = async (from, to) => {
      for (; from < to && open(); from += limit - 1) {
        const bytes = await this.read(from, Math.min(to, from + limit - 1));
        if (open()) socket.send(bytes);
      }
    };
    await send(0, set_up_bytes);
    for (const [n, fragment] of this.clip.fragments.entries()) {
      const end = fragment.offset + fragment.size;
      if (end <= offset) continue;
      const due = this.begunAt + fragment.ready_ms;
      const early = due - Date.now();
      if (early > 0) await sleep(early);
      if (!open()) return;
      if (due >= now) metrics.paceLag.add(Date.now() - due);
      await send(Math.max(fragment.offset, offset), end);
      if (!open()) return;
      this.ledger.sent(n, Date.now());
    }
    if (!open()) return;
    socket.send(JSON.stringify({ type: 'finish', channel: CHANNEL }));
    this.ledger.sent(this.clip.fragments.length, Date.now());
  }

  // A message with these bytes of the clip.
  async read(from, to) {
    const bytes = new Uint8Array(to - from);
    await this.file.seek(from, SeekMode.Start);
    const read = await this.file.read(bytes);
    if (read !== bytes.length) throw new Error(`the clip ends at ${from + read}, not at ${to}`);
    const message = new Uint8Array(1 + bytes.length);
    message[0] = CHANNEL;
    message.set(bytes, 1);
    return message.buffer;
  }
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
