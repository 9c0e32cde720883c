// Who comes when, and what is asked of the service.

const SECOND = 1000;
const MINUTE = 60 * SECOND;

// `users` at once for `duration` ms, each with one session after the other. Where `shape` is left out all come at the
// beginning, one every tenth of a second. `target`: what is made of their streams where nothing is said, `audio` if left out.
export const PROFILES = {
  tiny: { users: 2, sessions: 1 },
  gate: { users: 10, duration: 2 * MINUTE },
  // What two processors can do with k6 on them.
  standard: { users: 100, duration: 5 * MINUTE, target: 'copy' },
  steady: { users: 20, duration: 30 * MINUTE },
  soak: { users: 20, duration: 120 * MINUTE },
  ramp: { users: 100, duration: 10 * MINUTE, shape: [[0.5, 1], [0.25, 1], [0.25, 0]] },
  spike: { users: 100, duration: 5 * MINUTE, shape: [[0.3, 0.1], [0.02, 1], [0.36, 1], [0.02, 0.1], [0.3, 0.1]], crowded: true },
};

// What is made of each user's stream.
export const TARGETS = {
  copy: [{ name: 'source', video: { codec: 'copy' }, audio: { codec: 'copy' } }],
  audio: [{ name: 'video', video: { codec: 'copy' } }, { name: 'audio', audio: { codec: 'aac', kbps: 128 } }],
  '360p': [{ name: '360p', video: { codec: 'h264', height: 360 }, audio: { codec: 'aac', kbps: 128 } }],
  // The service's own choice: the source, and each rung below it.
  ladder: undefined,
};

// k6's scenario. Sessions that have begun are played to their end, of `clip_ms` and what comes after.
export function scenario({ users, sessions, duration, shape }, clip_ms) {
  const rest = `${Math.ceil(clip_ms / SECOND) + 60}s`;
  if (sessions) return { executor: 'per-vu-iterations', vus: users, iterations: sessions, maxDuration: rest, gracefulStop: '10s' };
  if (!shape) return { executor: 'constant-vus', vus: users, duration: `${duration}ms`, gracefulStop: rest };
  const stages = shape.map(([part, of]) => ({ duration: `${Math.round(part * duration)}ms`, target: Math.round(of * users) }));
  const startVUs = shape[0][1] < 1 ? stages[0].target : 0;
  return { executor: 'ramping-vus', startVUs, stages, gracefulRampDown: rest, gracefulStop: rest };
}

// What SPECIFICATION.md promises, `latency` and `delivery` in ms.
export function thresholds({ crowded }, latency, delivery) {
  return {
    segment_latency: [`p(95)<${latency}`],
    segment_delivery: [`p(95)<${delivery}`],
    segment_errors: ['rate<0.01'],
    segments_lost: ['count==0'],
    segments_duplicated: ['count==0'],
    segments_out_of_order: ['count==0'],
    violations: ['count==0'],
    session_errors: ['rate<0.01'],
    // Without it nothing at all would pass.
    'segments{outcome:ok}': ['count>0'],
    ...(crowded ? {} : { sessions_rejected: ['rate<0.01'] }),
  };
}

// `90s`, `5m`, `2h` in ms.
export function milliseconds(text) {
  const [, number, unit] = /^(\d+)(s|m|h)$/.exec(text) ?? [];
  if (!unit) throw new Error(`DURATION is like 90s, 5m or 2h, not ${text}`);
  return number * { s: SECOND, m: MINUTE, h: 60 * MINUTE }[unit];
}
