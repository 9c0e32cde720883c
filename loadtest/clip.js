// What of a fragmented MP4 is where, and when an encoder would have had it ready (ISO/IEC 14496-12, 8.8).

// `set_up`: bytes before the first fragment. Of each fragment: its bytes, how many of the clip's pictures have come with
// it, and when it is complete, in ms from the start of the first.
export function index(buffer) {
  const bytes = new DataView(buffer);
  const fragments = [];
  let video = null;
  let set_up = 0;
  let first = null;
  let frames = 0;
  for (const box of boxes(bytes, 0, bytes.byteLength)) {
    if (box.type === 'moov') {
      video = videoTrack(bytes, box);
    } else if (box.type === 'moof') {
      if (video === null) throw new Error('the clip has a moof before its moov');
      const run = pictures(bytes, box, video);
      if (run !== null) {
        first = first ?? run.start;
        frames += run.count;
        const ready_ms = ((run.end - first) * 1000) / video.timescale;
        fragments.push({ offset: fragments.length ? end(fragments) : set_up, size: 0, frames, ready_ms });
      }
    }
    // What has no pictures goes with what is before: mdat, mfra, a rest of sound; before the first fragment, it is set-up.
    const last = fragments[fragments.length - 1];
    if (last) last.size = box.end - last.offset;
    else set_up = box.end;
  }
  if (fragments.length === 0) throw new Error('the clip is no fragmented MP4');
  return { set_up, fragments, frames, bytes: end(fragments), duration_ms: fragments[fragments.length - 1].ready_ms };
}

function end(fragments) {
  const last = fragments[fragments.length - 1];
  return last.offset + last.size;
}

function* boxes(bytes, from, to) {
  for (let start = from; start + 8 <= to; ) {
    const type = String.fromCharCode(...[4, 5, 6, 7].map((n) => bytes.getUint8(start + n)));
    let size = bytes.getUint32(start);
    let head = 8;
    if (size === 1) {
      size = Number(bytes.getBigUint64(start + 8));
      head = 16;
    }
    if (size === 0) size = to - start;
    if (size < head || start + size > to) throw new Error(`the box at ${start} does not fit`);
    yield { type, start, body: start + head, end: start + size };
    start += size;
  }
}

function child(bytes, box, ...path) {
  for (const type of path) {
    box = [...boxes(bytes, box.body, box.end)].find((inner) => inner.type === type);
    if (box === undefined) return null;
  }
  return box;
}

function videoTrack(bytes, moov) {
  const inner = [...boxes(bytes, moov.body, moov.end)];
  for (const trak of inner.filter((box) => box.type === 'trak')) {
    if (bytes.getUint32(child(bytes, trak, 'mdia', 'hdlr').body + 8) !== 0x76696465) continue; // vide
    const tkhd = child(bytes, trak, 'tkhd');
    const mdhd = child(bytes, trak, 'mdia', 'mdhd');
    const id = bytes.getUint32(tkhd.body + (bytes.getUint8(tkhd.body) === 1 ? 20 : 12));
    const timescale = bytes.getUint32(mdhd.body + (bytes.getUint8(mdhd.body) === 1 ? 20 : 12));
    const mvex = child(bytes, moov, 'mvex');
    const defaults = [...boxes(bytes, mvex.body, mvex.end)].find((box) => box.type === 'trex' && bytes.getUint32(box.body + 4) === id);
    return { id, timescale, duration: bytes.getUint32(defaults.body + 12) };
  }
  throw new Error('the clip has no pictures');
}

// The video track's samples in a fragment: how many, and from when to when in decoding.
function pictures(bytes, moof, video) {
  for (const traf of [...boxes(bytes, moof.body, moof.end)].filter((box) => box.type === 'traf')) {
    const tfhd = child(bytes, traf, 'tfhd');
    if (bytes.getUint32(tfhd.body + 4) !== video.id) continue;
    const flags = bytes.getUint32(tfhd.body) & 0xffffff;
    const skipped = (flags & 1 ? 8 : 0) + (flags & 2 ? 4 : 0);
    const duration = flags & 8 ? bytes.getUint32(tfhd.body + 8 + skipped) : video.duration;
    const tfdt = child(bytes, traf, 'tfdt');
    const start = bytes.getUint8(tfdt.body) === 1 ? Number(bytes.getBigUint64(tfdt.body + 4)) : bytes.getUint32(tfdt.body + 4);
    const runs = [...boxes(bytes, traf.body, traf.end)].filter((box) => box.type === 'trun').map((box) => run(bytes, box, duration));
    return { start, count: sum(runs, 'count'), end: start + sum(runs, 'duration') };
  }
  return null;
}

function run(bytes, trun, each) {
  const flags = bytes.getUint32(trun.body) & 0xffffff;
  const count = bytes.getUint32(trun.body + 4);
  if (!(flags & 0x100)) return { count, duration: count * each };
  const width = 4 * [0x100, 0x200, 0x400, 0x800].filter((field) => flags & field).length;
  const samples = trun.body + 8 + (flags & 1 ? 4 : 0) + (flags & 4 ? 4 : 0);
  let duration = 0;
  for (let n = 0; n < count; n++) duration += bytes.getUint32(samples + n * width);
  return { count, duration };
}

function sum(list, field) {
  return list.reduce((total, item) => total + item[field], 0);
}
