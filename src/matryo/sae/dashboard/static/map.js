// The map: one pass over pixels for up to 10⁵ points, picking by a grid of buckets, a lasso, zoom by wheel or keys.
const CELLS = 64, WIDE = 5, LISTED = 200;  // numbers of a latent: x, y, log density, level, cosine
export async function start(mark, { go, showCard, hide }) {
  const canvas = document.getElementById('map'), list = document.getElementById('picked'), by = document.getElementById('by');
  const base = canvas.dataset.base, all = new Float32Array(await (await fetch(canvas.dataset.points)).arrayBuffer());
  const n = all.length / WIDE, context = canvas.getContext('2d'), W = canvas.width, H = canvas.height;
  const lows = Array(WIDE).fill(Infinity), highs = Array(WIDE).fill(-Infinity);
  for (let i = 0; i < n; i++) for (let k = 0; k < WIDE; k++) { const v = all[WIDE * i + k]; if (v < lows[k]) lows[k] = v; if (v > highs[k]) highs[k] = v; }
  const px = new Float32Array(n), py = new Float32Array(n), chosen = new Uint8Array(n);
  for (const t of (canvas.dataset.marked || '').split(',').filter(Boolean)) chosen[+t] = 1;
  let zoom = 1, cx = 0.5, cy = 0.5, buckets = [];
  const scale = [[46, 20, 110], [120, 28, 109], [190, 55, 84], [237, 105, 37], [251, 180, 26]];
  const levels = [[47, 126, 216], [224, 118, 26], [42, 157, 98], [194, 65, 124], [138, 99, 210], [154, 132, 18]];
  function colour(i) {
    if (by.value === 'level') return levels[all[WIDE * i + 3] % 6];
    const which = by.value === 'match' ? 4 : 2, t = (all[WIDE * i + which] - lows[which]) / ((highs[which] - lows[which]) || 1) * (scale.length - 1), k = Math.min(scale.length - 2, Math.floor(t));
    return scale[k].map((v, c) => v + (scale[k + 1][c] - v) * (t - k));
  }
  function draw() {
    const began = performance.now(), image = context.createImageData(W, H), data = image.data;
    buckets = Array.from({ length: CELLS * CELLS }, () => []);
    for (let i = 0; i < n; i++) {
      const u = (all[WIDE * i] - lows[0]) / ((highs[0] - lows[0]) || 1), v = (all[WIDE * i + 1] - lows[1]) / ((highs[1] - lows[1]) || 1);
      const x = px[i] = ((u - cx) * zoom + 0.5) * (W - 16) + 8, y = py[i] = H - (((v - cy) * zoom + 0.5) * (H - 16) + 8);
      if (x < 0 || y < 0 || x >= W || y >= H) continue;
      buckets[Math.floor(y / H * CELLS) * CELLS + Math.floor(x / W * CELLS)].push(i);
      const c = chosen[i] ? [230, 0, 60] : colour(i), r = chosen[i] ? 3 : n > 20000 ? 1 : 2;
      for (let dy = -r + 1; dy < r; dy++) for (let dx = -r + 1; dx < r; dx++) {
        const at = 4 * ((Math.floor(y) + dy) * W + Math.floor(x) + dx);
        if (at < 0 || at >= data.length) continue;
        data[at] = c[0]; data[at + 1] = c[1]; data[at + 2] = c[2]; data[at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
    canvas.dataset.drawn = (performance.now() - began).toFixed(1);
  }
  function place(event) { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) * W / box.width, (event.clientY - box.top) * H / box.height]; }
  function pick(x, y) {
    let best = -1, least = 100;
    const bx = Math.floor(x / W * CELLS), by = Math.floor(y / H * CELLS);
    for (let j = by - 1; j <= by + 1; j++) for (let i = bx - 1; i <= bx + 1; i++) for (const p of buckets[j * CELLS + i] || []) {
      const d = (px[p] - x) ** 2 + (py[p] - y) ** 2;
      if (d < least) { least = d; best = p; }
    }
    return best;
  }
  async function show(points, title) {
    const head = document.createElement('p'), body = document.createElement('div');
    head.textContent = `${title}: ${points.length} latents${points.length > LISTED ? `, the first ${LISTED} of them` : ''}`;
    list.replaceChildren(head, body);
    if (!points.length) return;
    const answer = await fetch(`${base}/chosen?of=${points.slice(0, LISTED).join(',')}`, { headers: { 'x-part': '1' } });
    body.replaceChildren(...new DOMParser().parseFromString(await answer.text(), 'text/html').body.childNodes);
  }
  // The card of the point under the pointer, where it stays for a moment.
  let over = -1, resting = 0;
  function hover(i, event) {
    if (i === over) return;
    over = i;
    clearTimeout(resting);
    hide();
    canvas.classList.toggle('pointing', i >= 0);
    if (i < 0) return;
    const box = { left: event.clientX, right: event.clientX, top: event.clientY - 8, bottom: event.clientY + 8 };
    const place = { dataset: { card: `${base}/latents/${i}/card` }, getBoundingClientRect: () => box };
    resting = setTimeout(() => showCard(place), 120);
  }
  canvas.addEventListener('pointerleave', event => hover(-1, event));
  let lasso = null, from = null;
  canvas.addEventListener('pointerdown', event => { lasso = [place(event)]; from = lasso[0]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener('pointermove', event => {
    const at = place(event);
    if (!lasso) { hover(pick(...at), event); return; }
    lasso.push(at);
    const [a, b] = lasso.slice(-2); context.strokeStyle = '#888'; context.beginPath(); context.moveTo(...a); context.lineTo(...b); context.stroke();
  });
  canvas.addEventListener('pointerup', event => {
    const at = place(event), path = lasso; lasso = null;
    if (!path) return;
    if (path.length < 6 || Math.hypot(at[0] - from[0], at[1] - from[1]) + path.length < 12) { const i = pick(...at); if (i >= 0) go(`${base}/latents/${i}`); return; }
    const inside = [];
    for (let i = 0; i < n; i++) {
      let odd = false;
      for (let j = 0, k = path.length - 1; j < path.length; k = j++) { const [xj, yj] = path[j], [xk, yk] = path[k]; if ((yj > py[i]) !== (yk > py[i]) && px[i] < (xk - xj) * (py[i] - yj) / (yk - yj) + xj) odd = !odd; }
      chosen[i] = odd ? 1 : 0; if (odd) inside.push(i);
    }
    draw(); show(inside, 'In the lasso');
  });
  canvas.addEventListener('wheel', event => {
    event.preventDefault();
    const [x, y] = place(event), before = [((x - 8) / (W - 16) - 0.5) / zoom + cx, ((H - y - 8) / (H - 16) - 0.5) / zoom + cy];
    zoom = Math.max(1, Math.min(60, zoom * (event.deltaY < 0 ? 1.25 : 0.8)));
    cx = before[0] - ((x - 8) / (W - 16) - 0.5) / zoom; cy = before[1] - ((H - y - 8) / (H - 16) - 0.5) / zoom;
    if (zoom === 1) cx = cy = 0.5;
    draw();
  }, { passive: false });
  canvas.addEventListener('keydown', event => {
    const step = 0.15 / zoom, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) { cx += moves[event.key][0]; cy += moves[event.key][1]; } else if (event.key === '+') zoom = Math.min(60, zoom * 1.25); else if (event.key === '-') zoom = Math.max(1, zoom / 1.25); else if (event.key === '0') { zoom = 1; cx = cy = 0.5; } else return;
    event.preventDefault(); draw();
  });
  by.addEventListener('change', draw);
  draw();
}
