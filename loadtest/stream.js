// The load test: users who stream a clip at the pace of its media to /v1/stream, and check what comes back. See README.md.

import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import { open as share } from 'k6/experimental/fs';
import { index } from './clip.js';
import { sleep } from './feed.js';
import { PROFILES, TARGETS, milliseconds, scenario, thresholds } from './profiles.js';
import { stream } from './session.js';
import { reports } from './summary.js';

const env = __ENV;
const name = env.PROFILE || 'standard';
const profile = { ...PROFILES[name] };
if (!PROFILES[name]) throw new Error(`PROFILE is one of ${Object.keys(PROFILES).join(', ')}, not ${name}`);
if (env.USERS) profile.users = Number(env.USERS);
if (env.DURATION) profile.duration = milliseconds(env.DURATION);
if (!(profile.users > 0)) throw new Error('USERS is a number');

const target = env.TARGET || profile.target || 'audio';
if (!(target in TARGETS) && !target.startsWith('[')) throw new Error(`TARGET is one of ${Object.keys(TARGETS).join(', ')}, or a list of outputs`);
if (!env.URL || !env.CLIP) throw new Error('URL (ws://…/v1/stream) and CLIP (a fragmented MP4) are needed');

const ask = {
  url: env.URL,
  headers: {
    'segmill-origin': env.ORIGIN || 'loadtest',
    ...(env.TOKEN && { Authorization: `Bearer ${env.TOKEN}` }),
    ...(env.IDENTITY && { 'X-Serverless-Authorization': `Bearer ${env.IDENTITY}` }),
  },
  start: {
    type: 'start',
    mode: 'live',
    segment_ms: Number(env.SEGMENT_MS || 2000),
    deadline_ms: env.DEADLINE_MS ? Number(env.DEADLINE_MS) : undefined,
    outputs: target.startsWith('[') ? JSON.parse(target) : TARGETS[target],
  },
};

// The index is made once, and the bytes are there once, whatever the number of users.
const clip = new SharedArray('clip', () => [index(open(env.CLIP, 'b'))])[0];
const file = await share(env.CLIP);

export const options = {
  scenarios: { [name]: scenario(profile, clip.duration_ms) },
  thresholds: thresholds(profile, Number(env.LATENCY_MS || 1000), Number(env.DELIVERY_MS || 500)),
  summaryTrendStats: ['count', 'min', 'avg', 'med', 'p(90)', 'p(95)', 'p(99)', 'max'],
};

export default async function () {
  const isFirst = exec.vu.iterationInScenario === 0;
  if (isFirst && !profile.shape) await sleep((exec.vu.idInTest - 1) * 100);
  await stream(ask, file, clip);
}

export function handleSummary(data) {
  const run = { profile: name, users: profile.users, target, clip: env.CLIP.split('/').pop(), clip_s: clip.duration_ms / 1000 };
  return reports(data, { ...run, url: env.URL }, env.OUT || '.');
}
