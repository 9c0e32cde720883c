// What is measured and counted of users' sessions. Times in ms.

import { Counter, Rate, Trend } from 'k6/metrics';

const time = (name) => new Trend(name, true);

// From the sending of a segment's last byte to the arrival of the last byte made of it. The wait for the next
// fragment is in it, since only there a service sees that the segment has ended.
export const segmentLatency = time('segment_latency');
// The same from the sending of the fragment (of `finish`, of the last) that ends the segment.
export const segmentTurnaround = time('segment_turnaround');
// What the receipts tell of the service's own part: from a segment's last byte in to its last byte out.
export const segmentServerLatency = time('segment_server_latency');
// Processor time of a segment's jobs in the workers, as receipts tell it.
export const segmentCpu = time('segment_cpu');
// What is left of the turnaround without the receipt's queue and transcoding: cutting, muxing, both sockets, k6 itself.
export const segmentDelivery = time('segment_delivery');
// From a session's first byte of media, which is there with the media's first picture, to the end of its first segment.
export const firstSegment = time('first_segment');
// How late k6 was with a fragment. Where it is large, k6 lacks processors, and what else is measured says little.
export const paceLag = time('pace_lag');

// By `outcome`: ok, degraded, failed.
export const segments = new Counter('segments');
// Of the segments: those that failed, came wrong, or did not come.
export const segmentErrors = new Rate('segment_errors');
export const segmentsDegraded = new Rate('segments_degraded');
// Segments, or single outputs of them, that never came though their bytes were sent.
export const segmentsLost = new Counter('segments_lost');
export const segmentsDuplicated = new Counter('segments_duplicated');
export const segmentsOutOfOrder = new Counter('segments_out_of_order');
// Whatever else is not as the protocol has it, by `what`.
export const violations = new Counter('violations');

// Of the sessions that were let in: those that did not end with `done`.
export const sessionErrors = new Rate('session_errors');
// Of the attempts to get in: those that were told to come later (429, 503, close 1013).
export const sessionsRejected = new Rate('sessions_rejected');
// By `why`: the reason of `moved`, or `lost`.
export const reconnects = new Counter('reconnects');
