// Curves of runs: uPlot in place of the server's drawings, with zoom, a read-out under the cursor, and new numbers as they come.
const COLOURS = 6, EVERY_MS = 2000;
let library, drawn = [];

function load({ library: script, sheet: style }) {
  return library ??= new Promise((done, failed) => {
    const sheet = document.createElement('link'), code = document.createElement('script');
    sheet.rel = 'stylesheet'; sheet.href = style;
    code.src = script; code.onload = () => done(window.uPlot); code.onerror = failed;
    document.head.append(sheet, code);
  });
}
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const told = value => value === null || value === undefined ? '–' : Number.isInteger(value) ? value.toLocaleString('en') : value !== 0 && Math.abs(value) < 1e-4 ? (+value.toPrecision(4)).toExponential() : String(+value.toPrecision(4));

function nearest(x, step) {
  let low = 0, high = x.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (x[middle] <= step) low = middle; else high = middle; }
  return step - x[low] <= x[high] - step ? low : high;
}

export async function start(mark) {
  const uPlot = await load(mark.dataset), table = document.getElementById('readout'), zoomed = document.getElementById('zoom');
  const twin = new URL(mark.dataset.twin, location.href), hidden = new Set();
  for (const old of drawn) old.destroy();
  drawn = [];
  let view = await ask(), range = view.from === null && view.to === null ? null : [view.from ?? 0, view.to ?? Infinity];
  if (!mark.isConnected) return;

  async function ask() {
    return (await fetch(twin)).json();
  }

  function aligned(chart) {
    return uPlot.join(chart.curves.map(curve => [curve.x, curve.y]));
  }

  // The table: every curve's value at a step, or at its last.
  function read(step = null) {
    view.series.forEach((_, place) => {
      const cells = table.tBodies[0].rows[place].cells;
      view.charts.forEach((chart, column) => {
        const curve = chart.curves.find(one => one.series === place);
        if (!curve) return;
        const at = step === null ? curve.x.length - 1 : nearest(curve.x, step);
        cells[1].textContent = told(curve.x[at]);
        cells[column + 2].textContent = told(curve.y[at]);
      });
    });
  }

  function options(chart, place) {
    const axis = { stroke: () => css('--quiet'), grid: { stroke: () => css('--line'), width: 1 }, ticks: { stroke: () => css('--line'), width: 1 }, font: '11px system-ui, sans-serif' };
    return {
      width: width(place), height: 240, legend: { show: false }, padding: [8, 18, 0, 0],
      scales: { x: { time: false }, y: chart.log ? { distr: 3 } : { range: (_, min, max) => max > min ? uPlot.rangeNum(min, max, 0.1, true) : max ? uPlot.rangeNum(0, max, 0.1, true) : [0, 1] } },
      axes: [{ ...axis, size: 34 }, { ...axis, size: 62, values: (_, ticks) => ticks.map(tick => tick === null ? '' : told(tick)) }],
      series: [{}, ...chart.curves.map(({ series }) => ({
        label: view.series[series].name, show: !hidden.has(series), stroke: () => css(`--c${series % COLOURS}`), width: 1.5,
        dash: Math.floor(series / COLOURS) % 2 ? [6, 4] : undefined, points: { show: chart.curves.every(one => one.x.length < 40), size: 4 },
      }))],
      cursor: { sync: { key: 'curves' }, drag: { x: true, y: false, setScale: false, dist: 6 }, bind: { dblclick: () => () => { zoom(null); return null; } } },
      hooks: {
        setCursor: [plot => { if (plot.cursor.event || plot === keyed) read(plot.cursor.idx === null || plot.cursor.idx === undefined ? null : plot.data[0][plot.cursor.idx]); }],
        setSelect: [plot => {
          const { left, width } = plot.select;
          if (!width) return;
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          if (plot.cursor.event) zoom([plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x')]);  // the chart that was dragged on
        }],
      },
    };
  }
  const width = place => Math.max(240, place.clientWidth);
  let keyed = null, asked = 0;

  function build() {
    for (const old of drawn) old.destroy();
    drawn = view.charts.map((chart, i) => {
      const place = mark.querySelectorAll('.drawing')[i], box = document.createElement('div');
      box.tabIndex = 0;
      box.setAttribute('role', 'group');
      box.setAttribute('aria-label', `${chart.what} by step: arrows move the read-out, + and − zoom, 0 shows all`);
      box.dataset.what = chart.what;
      place.replaceChildren(box);
      const plot = new uPlot(options(chart, place), aligned(chart), box);
      box.addEventListener('keydown', event => key(event, plot));
      box.addEventListener('wheel', event => wheel(event, plot), { passive: false });
      return plot;
    });
    frame();
    read();
    mark.dataset.drawn = drawn.length;
  }

  // All charts show one range of steps.
  function frame() {
    drawn.forEach(plot => {
      const x = plot.data[0];
      plot.setScale('x', { min: range ? range[0] : x[0], max: range && Number.isFinite(range[1]) ? range[1] : x.at(-1) });
    });
  }

  // The server thins what is inside again, so that zooming in shows all there is.
  async function zoom(to) {
    range = to;
    for (const [name, value] of [['from', to?.[0]], ['to', to?.[1]]]) if (value === undefined) twin.searchParams.delete(name); else twin.searchParams.set(name, +value.toPrecision(7));
    history.replaceState(null, '', twin.pathname.replace(/\.json$/, '') + twin.search);
    document.querySelector('footer [data-twin]').href = twin.pathname + twin.search;
    zoomed.textContent = to ? `Steps ${told(Math.round(to[0]))} to ${told(Math.round(to[1]))}. ` : '';
    if (to) { const all = document.createElement('button'); all.type = 'button'; all.textContent = 'All steps'; all.addEventListener('click', () => zoom(null)); zoomed.append(all); }
    frame();
    const mine = ++asked, next = await ask();
    if (mine === asked && mark.isConnected) { mark.dataset.zoom = to ? to.map(Math.round).join(' ') : ''; change(next); }
  }

  function change(next) {
    const shape = one => JSON.stringify([one.series, one.charts.map(chart => [chart.what, chart.log, chart.curves.map(curve => curve.series)])]);
    const same = shape(next) === shape(view);
    if (!same && next.series.length !== view.series.length) { location.reload(); return; }
    view = next;
    if (!same) { build(); return; }
    drawn.forEach((plot, i) => plot.setData(aligned(view.charts[i]), false));
    frame();
    read();
  }

  function key(event, plot) {
    const x = plot.data[0], here = plot.cursor.idx ?? (event.key === 'ArrowLeft' ? x.length : -1);
    const { min, max } = plot.scales.x, middle = plot.cursor.idx ? x[plot.cursor.idx] : (min + max) / 2;
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') {
      const to = Math.max(0, Math.min(x.length - 1, here + (event.key === 'ArrowLeft' ? -1 : 1)));
      keyed = plot;
      plot.setCursor({ left: plot.valToPos(x[to], 'x'), top: plot.over.clientHeight / 2 });
    } else if (event.key === '+') zoom([middle - (max - min) / 4, middle + (max - min) / 4]);
    else if (event.key === '-' && range) zoom([Math.max(0, middle - (max - min)), middle + (max - min)]);
    else if (event.key === '0') zoom(null);
    else return;
    event.preventDefault();
  }
  function wheel(event, plot) {
    if (!event.ctrlKey) return;  // a page with eight charts must scroll
    event.preventDefault();
    const { min, max } = plot.scales.x, by = event.deltaY < 0 ? 0.8 : 1.25;
    const at = plot.posToVal(event.clientX - plot.over.getBoundingClientRect().left, 'x');
    clearTimeout(wheel.later);
    range = [Math.max(0, at - (at - min) * by), at + (max - at) * by];
    frame();
    wheel.later = setTimeout(() => zoom(range), 200);
  }

  function toggles() {
    view.series.forEach((one, place) => {
      const name = table.tBodies[0].rows[place].querySelector('.name'), button = document.createElement('button');
      button.type = 'button'; button.textContent = one.name; button.className = 'plain'; button.setAttribute('aria-pressed', 'true');
      button.title = 'show or hide this curve';
      button.addEventListener('click', () => {
        const show = hidden.has(place);
        if (show) hidden.delete(place); else hidden.add(place);
        button.setAttribute('aria-pressed', show);
        drawn.forEach((plot, i) => view.charts[i].curves.forEach((curve, k) => { if (curve.series === place) plot.setSeries(k + 1, { show }); }));
      });
      name.replaceChildren(button);
    });
  }

  async function follow() {
    if (!mark.isConnected) return;
    try {
      const next = await ask();
      if (!mark.isConnected) return;
      if (JSON.stringify(next.stamp) !== JSON.stringify(view.stamp)) change(next);
      for (const row of next.runs) { const cell = document.querySelector(`[data-state="${CSS.escape(row.name)}"]`); if (cell) cell.textContent = row.status; }
      if (!next.running) { document.getElementById('following')?.remove(); return; }
    } catch { /* the server was stopped: the last curves stay */ }
    setTimeout(follow, EVERY_MS);
  }

  document.getElementById('howto').classList.remove('hidden');
  build();
  toggles();
  new ResizeObserver(() => drawn.forEach((plot, i) => plot.setSize({ width: width(mark.querySelectorAll('.drawing')[i]), height: 240 }))).observe(mark);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { if (mark.isConnected) drawn.forEach(plot => plot.redraw(false)); });
  if (view.running) setTimeout(follow, EVERY_MS);
}
