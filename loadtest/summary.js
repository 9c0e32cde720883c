// What a run has come to: text, JSON, JUnit, and a page.

// As k6 wants it: contents by file name. `run`: what was run, for people.
export function reports(data, run, folder) {
  const judged = verdicts(data.metrics);
  const seconds = data.state.testRunDurationMs / 1000;
  return {
    stdout: text(data.metrics, judged, run, seconds),
    [`${folder}/summary.json`]: JSON.stringify({ run, ...data }, null, 2),
    [`${folder}/junit.xml`]: junit(judged, run, seconds),
    [`${folder}/index.html`]: page(data.metrics, judged, run, seconds),
  };
}

// Each threshold: whether it held, and what was measured.
function verdicts(metrics) {
  const all = sorted(metrics).filter(([, metric]) => metric.thresholds);
  return all.flatMap(([name, metric]) =>
    Object.entries(metric.thresholds).map(([rule, { ok }]) => ({ name, rule, ok, measured: measured(metric, rule) })),
  );
}

// k6 has them in an order of its own each time.
function sorted(metrics) {
  return Object.entries(metrics).sort(([one], [other]) => (one < other ? -1 : 1));
}

function measured(metric, rule) {
  const [statistic] = /^[a-z]+(\(\d+\))?/.exec(rule);
  return figure(metric, statistic);
}

function figure(metric, statistic) {
  const value = metric.values[statistic];
  if (value === undefined) return '–';
  if (statistic === 'count') return String(value);
  if (metric.type === 'rate') return `${(100 * value).toFixed(2)} %`;
  return metric.contains === 'time' ? `${value.toFixed(0)} ms` : String(Math.round(value * 100) / 100);
}

const OURS = /^(segment|session|first_segment|pace_lag|reconnects|violations)/;
const TIMES = ['med', 'p(90)', 'p(95)', 'p(99)', 'max'];

function times(metrics) {
  return sorted(metrics).filter(([name, metric]) => metric.type === 'trend' && OURS.test(name));
}

function counts(metrics) {
  const data = ['data_sent', 'data_received', 'iterations'];
  const chosen = sorted(metrics).filter(([name, { type }]) => type !== 'trend' && (OURS.test(name) || data.includes(name)));
  return chosen.map(([name, metric]) => [name, figure(metric, metric.type === 'rate' ? 'rate' : 'count')]);
}

function heading(run, seconds) {
  return `${run.users} users, profile ${run.profile}, target ${run.target}, ${run.clip} (${run.clip_s} s), ${seconds.toFixed(0)} s`;
}

function text(metrics, judged, run, seconds) {
  const row = (cells) => `  ${cells[0].padEnd(26)}${cells.slice(1).map((cell) => cell.padStart(11)).join('')}\n`;
  return [
    `\n${heading(run, seconds)}\n\n`,
    row(['', ...TIMES]),
    ...times(metrics).map(([name, metric]) => row([name, ...TIMES.map((statistic) => figure(metric, statistic))])),
    '\n',
    ...counts(metrics).map(row),
    '\n',
    ...judged.map(({ name, rule, ok, measured }) => `  ${ok ? 'ok    ' : 'FAILED'}  ${name} ${rule}: ${measured}\n`),
  ].join('');
}

function junit(judged, run, seconds) {
  const cases = judged.map(({ name, rule, ok, measured }) => {
    const failure = ok ? '' : `<failure message="${escape(`${name} ${rule}: ${measured}`)}"/>`;
    return `    <testcase classname="loadtest.${run.profile}" name="${escape(`${name} ${rule}`)}">${failure}</testcase>\n`;
  });
  const failures = judged.filter(({ ok }) => !ok).length;
  const name = `name="loadtest.${run.profile}" tests="${judged.length}" failures="${failures}" errors="0" time="${seconds.toFixed(3)}"`;
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n  <testsuite ${name}>\n${cases.join('')}  </testsuite>\n</testsuites>\n`;
}

function page(metrics, judged, run, seconds) {
  const table = (head, rows) =>
    `<table><tr>${head.map((cell) => `<th>${escape(cell)}</th>`).join('')}</tr>${rows.join('')}</table>`;
  const row = (cells, kind = '') => `<tr class="${kind}">${cells.map((cell) => `<td>${escape(cell)}</td>`).join('')}</tr>`;
  const failed = judged.filter(({ ok }) => !ok).length;
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Segmill load test: ${failed ? 'failed' : 'passed'}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0 2em; width: 100%; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.ok td:last-child { color: #176f2c; } .failed td:last-child { color: #b00020; font-weight: bold; }
</style>
<h1>Load test ${failed ? `failed: ${failed} of ${judged.length} thresholds` : 'passed'}</h1>
<p>${escape(heading(run, seconds))}; ${escape(run.url)}</p>
${table(['threshold', 'rule', 'measured', ''], judged.map(({ name, rule, ok, measured }) => row([name, rule, measured, ok ? 'ok' : 'failed'], ok ? 'ok' : 'failed')))}
${table(['time', ...TIMES], times(metrics).map(([name, metric]) => row([name, ...TIMES.map((statistic) => figure(metric, statistic))])))}
${table(['count', ''], counts(metrics).map((cells) => row(cells)))}
</html>
`;
}

function escape(text) {
  return String(text).replace(/[&<>"]/g, (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[character]);
}
