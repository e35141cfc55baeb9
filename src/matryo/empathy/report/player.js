(function (root) {
  "use strict";
  const games = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const COLOURS = ["#2f7ed8", "#e0761a", "#2a9d62"], NAMES = ["down", "up", "right", "left", "stay"];
  const last = Math.max(...games.map((g) => g.frames.length - 1));
  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const place = root.querySelector(".games"), slider = root.querySelector("input"), go = root.querySelector(".go");
  const views = games.map((game) => {
    const box = document.createElement("div"), head = document.createElement("h4"), said = document.createElement("div");
    const canvas = document.createElement("canvas");
    head.textContent = game.title;
    said.className = "said";
    box.append(head, said, canvas);
    place.append(box);
    return { game, said, canvas };
  });
  const CELL = 44, BAR = 92;

  function draw({ game, said, canvas }, step) {
    const n = game.size, width = n * CELL, i = Math.min(step, game.frames.length - 1), f = game.frames[i];
    const ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = (width + 1) * ratio;
    canvas.height = (width + BAR + 74) * ratio;
    canvas.style.width = width + 1 + "px";
    pen.scale(ratio, ratio);
    const at = (cell) => [(cell % n) * CELL, Math.floor(cell / n) * CELL];
    pen.fillStyle = "rgba(47,126,216,.13)";
    for (let r = -2; r <= 2; r++) for (let c = -2; c <= 2; c++) {
      const row = (Math.floor(f.c[0] / n) + r + n) % n, column = (f.c[0] % n + c + n) % n;
      pen.fillRect(column * CELL, row * CELL, CELL, CELL);
    }
    pen.strokeStyle = style("--line") || "#ddd";
    for (let k = 0; k <= n; k++) {
      pen.beginPath(); pen.moveTo(k * CELL + .5, 0); pen.lineTo(k * CELL + .5, width);
      pen.moveTo(0, k * CELL + .5); pen.lineTo(width, k * CELL + .5); pen.stroke();
    }
    pen.fillStyle = "#e2b228";
    for (const cell of f.o) { const [x, y] = at(cell); circle(pen, x + CELL / 2, y + CELL / 2, CELL * .15); }
    for (let agent = f.c.length - 1; agent >= 0; agent--) {
      const [x, y] = at(f.c[agent]), shared = f.c.filter((c) => c === f.c[agent]).length > 1;
      const shift = shared ? (agent ? CELL * .17 : -CELL * .17) : 0, radius = CELL * (shared ? .22 : .3);
      pen.fillStyle = pen.strokeStyle = f.a[agent] ? COLOURS[agent ? 1 : 0] : "#a9b0b8";
      circle(pen, x + CELL / 2 + shift, y + CELL / 2, radius);
      if (game.coined) text(pen, String(f.h[agent]), x + CELL / 2 + shift, y + CELL / 2, "#fff", 13);
      else if (!f.a[agent]) text(pen, "×", x + CELL / 2 + shift, y + CELL / 2, "#fff", 18);
      else if (game.armed) {
        pen.lineWidth = 3;
        const mx = x + CELL / 2 + shift, my = y + CELL / 2, reach = radius + 4;
        pen.beginPath(); pen.moveTo(mx - radius * .8, my + reach); pen.lineTo(mx + radius * .8, my + reach);
        pen.moveTo(mx + reach, my - radius * .8); pen.lineTo(mx + reach, my + radius * .8); pen.stroke();
        pen.lineWidth = 1;
      }
    }
    const each = width / 5, base = width + BAR + 12;
    for (let a = 0; a < 5; a++) {
      f.v.forEach((values, j) => {
        if (!values) return;
        const height = (values[a] - game.low) / (game.high - game.low) * BAR, thick = (each - 12) / 3;
        pen.fillStyle = COLOURS[j];
        pen.fillRect(a * each + 6 + j * thick, base - height, thick - 2, height);
      });
      text(pen, (f.m === a ? "▾ " : "") + NAMES[a], a * each + each / 2, base + 13, style("--ink") || "#222", 12, f.m === a);
      f.v.forEach((values, j) => values && text(pen, values[a].toFixed(2), a * each + each / 2, base + 29 + 13 * j, COLOURS[j], 11));
    }
    const done = i === game.frames.length - 1, dead = f.k ? "a death in this step; " : "";
    said.className = "said" + (f.k ? " death" : "");
    said.textContent = dead + (done ? `step ${i}: ${game.ending}` : `step ${i}`) +
      (game.coined ? `; coins ${f.h[0]} and ${f.h.slice(1).join(", ")}` : "");
  }
  function circle(pen, x, y, radius) { pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.fill(); }
  function text(pen, what, x, y, colour, size, bold) {
    pen.font = `${bold ? "600 " : ""}${size}px system-ui, sans-serif`;
    pen.textAlign = "center"; pen.textBaseline = "middle"; pen.fillStyle = colour; pen.fillText(what, x, y);
  }
  let timer = null;
  function show(step) {
    slider.value = step;
    root.querySelector(".at").textContent = `${step} / ${last}`;
    views.forEach((view) => draw(view, step));
  }
  function stop() { clearTimeout(timer); timer = null; go.textContent = "Play"; }
  function tick() {
    const step = Number(slider.value);
    if (step >= last) return stop();
    show(step + 1);
    timer = setTimeout(tick, Number(root.querySelector("select").value));
  }
  const by = (d) => { stop(); show(Math.max(0, Math.min(last, Number(slider.value) + d))); };
  slider.max = last;
  slider.oninput = () => { stop(); show(Number(slider.value)); };
  root.querySelector(".back").onclick = () => by(-1);
  root.querySelector(".on").onclick = () => by(1);
  go.onclick = () => {
    if (timer) return stop();
    if (Number(slider.value) >= last) show(0);
    go.textContent = "Pause";
    timer = setTimeout(tick, 0);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(Number(slider.value)));
  show(0);
})(document.currentScript.parentElement);
