// Holds what comes of a session against what was sent, and against the protocol: each segment once, in order, with one
// outcome, all of its outputs as told.

import crypto from 'k6/crypto';
import * as metrics from './metrics.js';

export class Ledger {
  // `clip`: as `index` makes it.
  constructor(clip) {
    this.clip = clip;
    // By fragment: when it was sent first. The last is `finish`.
    this.sentAt = [];
    this.begunAt = null;
    this.outputs = null;
    this.inits = new Map();
    // By output: where its next segment has to start, in ticks.
    this.ends = new Map();
    this.next = 1;
    this.missing = new Set();
    this.receipts = { segments: 0, failed: 0, degraded: 0, frames: 0 };
    this.done = false;
    this.told = new Set();
    this.clear();
  }

  // Of the segment that has no receipt yet nothing has come; on a new connection it comes again.
  clear() {
    this.open = new Map();
    this.lastByteAt = null;
    this.wrong = 0;
  }

  begun(at) {
    this.begunAt = this.begunAt ?? at;
  }

  // All of fragment `n` has been handed to the socket; of `finish`, n is the number of fragments.
  sent(n, at) {
    this.sentAt[n] = this.sentAt[n] ?? at;
  }

  tracks(message) {
    this.outputs = message.outputs;
  }

  init(header, payload) {
    if (payload.byteLength === 0) this.violation('empty_init');
    this.inits.set(`${header.output} ${header.id}`, header);
  }

  segment(header, payload, at) {
    const passed = header.seq < this.next && !this.missing.has(header.seq);
    if (passed || this.open.has(header.output)) return metrics.segmentsDuplicated.add(1);
    if (header.bytes !== payload.byteLength || header.bytes === 0) this.violation('bytes');
    if (header.sha256 !== crypto.sha256(payload, 'hex')) this.violation('sha256');
    if (header.init !== null && !this.inits.has(`${header.output} ${header.init}`)) this.violation('no_init');
    const end = this.ends.get(header.output);
    if (end !== undefined && end !== header.start && !header.discontinuity) this.violation('gap');
    this.ends.set(header.output, header.start + header.duration);
    this.open.set(header.output, header);
    this.lastByteAt = at;
  }

  receipt(receipt, at) {
    if (receipt.seq < this.next && !this.missing.delete(receipt.seq)) return metrics.segmentsDuplicated.add(1);
    if (receipt.seq !== this.next || [...this.open.values()].some(({ seq }) => seq !== receipt.seq)) this.outOfOrder();
    for (; this.next < receipt.seq; this.next++) this.missing.add(this.next);
    this.next = Math.max(this.next, receipt.seq + 1);

    const missing = this.outputsMissing(receipt);
    this.complete(receipt);
    this.measure(receipt, this.lastByteAt ?? at);
    this.receipts.segments += 1;
    this.receipts.frames += receipt.frames_in;
    if (receipt.outcome in this.receipts) this.receipts[receipt.outcome] += 1;
    metrics.segmentsLost.add(missing);
    metrics.segments.add(1, { outcome: receipt.outcome });
    metrics.segmentErrors.add(receipt.outcome === 'failed' || missing > 0 || this.wrong > 0);
    metrics.segmentsDegraded.add(receipt.outcome === 'degraded');
    this.clear();
  }

  // How many outputs of a segment are not there though its receipt does not say so.
  outputsMissing(receipt) {
    const absent = (this.outputs ?? []).filter(({ name }) => !this.open.has(name));
    // They go on later.
    for (const { name } of absent) this.ends.delete(name);
    const told = ({ name }) => receipt.degraded.some(({ what, output }) => what === 'rung_left_out' && output === name);
    return receipt.outcome === 'failed' ? 0 : absent.filter((output) => !told(output)).length;
  }

  // Whether a receipt has all that it has to have, and says what the segments said.
  complete(receipt) {
    const numbers = ['start_ms', 'duration_ms', 'frames_in', 'queued_ms', 'transcode_ms', 'latency_ms', 'cpu_ms', 'attempts'];
    if (numbers.some((name) => typeof receipt[name] !== 'number')) this.violation('receipt');
    if (!['ok', 'degraded', 'failed'].includes(receipt.outcome)) this.violation('outcome');
    if ((receipt.outcome === 'failed') !== (receipt.error !== undefined && receipt.error !== null)) this.violation('error');
    if (receipt.outcome !== 'failed' && (receipt.outcome === 'degraded') !== receipt.degraded.length > 0) this.violation('degraded');
    if (!receipt.resume || !receipt.resume.token) this.violation('no_resume');
    for (const [name, header] of this.open) {
      const output = (this.outputs ?? []).find((one) => one.name === name);
      if (output === undefined) this.violation('unknown_output');
      else if (output.video && receipt.frames_out[name] !== header.frames) this.violation('frames');
      else if (output.audio && !(receipt.audio_samples[name] > 0)) this.violation('samples');
    }
    const asked = (this.outputs ?? []).filter((output) => output.video && this.open.has(output.name));
    if (receipt.outcome === 'ok' && asked.some(({ name }) => receipt.frames_out[name] !== receipt.frames_in)) {
      this.violation('frame_mismatch');
    }
  }

  // Which fragment ends with a segment's last picture is told by how many pictures there were until then.
  measure(receipt, at) {
    const until = this.receipts.frames + receipt.frames_in;
    const last = this.clip.fragments.findIndex((fragment) => fragment.frames >= until);
    if (this.sentAt[last] === undefined) return this.violation('before_it_was_sent');
    // Sent in one with its fragment, or after it: the next, or `finish`.
    const ending = this.sentAt[last + 1] ?? this.sentAt[last];
    const turnaround = Math.max(0, at - ending);
    metrics.segmentLatency.add(at - this.sentAt[last]);
    metrics.segmentTurnaround.add(turnaround);
    metrics.segmentServerLatency.add(receipt.latency_ms);
    metrics.segmentCpu.add(receipt.cpu_ms);
    metrics.segmentDelivery.add(Math.max(0, turnaround - receipt.queued_ms - receipt.transcode_ms));
    if (receipt.seq === 1) metrics.firstSegment.add(at - this.begunAt);
  }

  // `done`: its sums are those of the receipts, and of the clip.
  finished(message) {
    this.done = true;
    const { segments, failed, degraded, frames } = this.receipts;
    if (message.segments !== segments || message.failed !== failed || message.degraded !== degraded) this.violation('done');
    if (message.frames_in !== frames || frames !== this.clip.frames) this.violation('frames_in');
  }

  // The session is over, however it ended: what was sent and did not come is lost. Not so the rest of a session that the
  // service has `refused` to go on with since all until then had failed: of that it has told.
  settle(refused) {
    const hopeless = refused && this.receipts.segments > 0 && this.receipts.failed === this.receipts.segments;
    const length = this.receipts.segments ? this.receipts.frames / this.receipts.segments : this.clip.frames;
    const sent = this.sentAt.length ? this.clip.fragments[Math.min(this.sentAt.length, this.clip.fragments.length) - 1].frames : 0;
    const tail = hopeless ? 0 : Math.max(0, sent - this.receipts.frames);
    const lost = Math.max(this.missing.size, Math.ceil(tail / length));
    metrics.segmentsLost.add(lost);
    for (let n = 0; n < lost; n++) metrics.segmentErrors.add(true);
    metrics.sessionErrors.add(!this.done);
  }

  outOfOrder() {
    this.wrong += 1;
    metrics.segmentsOutOfOrder.add(1);
  }

  violation(what) {
    this.wrong += 1;
    if (!this.told.has(what)) console.error(`violation: ${what}, at segment ${this.next}`);
    this.told.add(what);
    metrics.violations.add(1, { what });
  }
}
