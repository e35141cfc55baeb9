// The shell of every page: links swap <main> in place, parts load after paint, tokens explain themselves, keys.
const main = () => document.getElementById('main');
const tip = document.getElementById('tip'), card = document.getElementById('card');
let visit = 0;

export async function go(url, push = true, focus = true) {
  const mine = ++visit;
  main().classList.add('busy');
  let text, answer;
  try {
    answer = await fetch(url, { headers: { accept: 'text/html' } });
    text = await answer.text();
  } catch { if (mine === visit) { main().classList.remove('busy'); say('The server does not answer: is matryo sae serve still running?'); } return; }
  if (mine !== visit) return;
  if (!(answer.headers.get('content-type') || '').startsWith('text/html')) { location.href = url; return; }
  const page = new DOMParser().parseFromString(text, 'text/html');
  document.title = page.title;
  for (const part of ['main', 'nav', 'footer']) document.querySelector(part).replaceWith(page.querySelector(part));
  const sae = page.querySelector('.find [name=sae]');
  if (sae) document.querySelector('.find [name=sae]').value = sae.value;
  if (push) history.pushState(null, '', answer.redirected ? answer.url : url);
  hide();
  if (push) scrollTo(0, 0);
  if (focus) main().focus({ preventScroll: true });
  settle();
  performance.mark('swapped');
}

function settle() {
  for (const place of document.querySelectorAll('[data-load]')) load(place, place.dataset.load);
  for (const place of document.querySelectorAll('[data-load-open]')) place.addEventListener('toggle', () => { if (place.open && !place.dataset.done) { place.dataset.done = 1; const inside = document.createElement('div'); place.append(inside); load(inside, place.dataset.loadOpen); } });
  for (const passage of document.querySelectorAll('.passage')) { const first = passage.querySelector('.pk, .t'); if (first) first.tabIndex = 0; }
  for (const script of document.querySelectorAll('[data-module]')) import(script.dataset.module).then(module => module.start(script, { go, showCard, hide }));
}

async function load(place, url) {
  place.setAttribute('aria-busy', 'true');
  place.textContent = '…';
  try {
    const answer = await fetch(url, { headers: { accept: 'text/html', 'x-part': '1' } });
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    place.replaceChildren(...page.body.childNodes);
  } catch { place.textContent = 'The server does not answer.'; }
  place.removeAttribute('aria-busy');
  for (const passage of place.querySelectorAll('.passage')) { const first = passage.querySelector('.pk, .t'); if (first) first.tabIndex = 0; }
}

function near(box, element) {
  const at = element.getBoundingClientRect();
  box.hidden = false;
  const size = box.getBoundingClientRect();
  const top = at.bottom + 6 + size.height > innerHeight ? Math.max(4, at.top - size.height - 6) : at.bottom + 6;
  box.style.setProperty('left', Math.max(4, Math.min(at.left, innerWidth - size.width - 8)) + 'px');
  box.style.setProperty('top', top + 'px');
}
function hide() { tip.hidden = true; card.hidden = true; wanted = null; }
function say(text) { tip.textContent = text; tip.hidden = false; tip.style.setProperty('left', '1rem'); tip.style.setProperty('top', '1rem'); }
function explain(token) {
  const of = token.dataset.of ? ` ${token.dataset.of}` : '';
  tip.textContent = `${token.dataset.v}${of} at position ${token.dataset.p}`;
  near(tip, token);
}

const cards = new Map();
let wanted = null;
async function showCard(chip) {
  wanted = chip;
  const url = chip.dataset.card;
  if (!cards.has(url)) cards.set(url, fetch(url, { headers: { 'x-part': '1' } }).then(r => r.ok ? r.text() : ''));
  const text = await cards.get(url);
  if (wanted !== chip || !text) return;
  card.replaceChildren(...new DOMParser().parseFromString(text, 'text/html').body.childNodes);
  near(card, chip);
}

for (const [kind, leave] of [['mouseover', 'mouseout'], ['focusin', 'focusout']]) {
  document.addEventListener(kind, event => {
    const token = event.target.closest?.('.t[data-v]'), chip = event.target.closest?.('[data-card]');
    if (token) explain(token); else if (chip) showCard(chip);
  });
  document.addEventListener(leave, event => { if (event.target.closest?.('.t[data-v], [data-card]')) hide(); });
}

document.addEventListener('click', event => {
  const link = event.target.closest('a[href]');
  if (link && !event.defaultPrevented && event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !link.hasAttribute('download') && !link.target) {
    const href = link.getAttribute('href') ?? link.href.baseVal;
    const url = new URL(href, location.href);
    if (url.origin === location.origin && !href.startsWith('#') && !/\.(json|csv|parquet|html)$/.test(url.pathname)) { event.preventDefault(); go(url.pathname + url.search); }
  }
  const button = event.target.closest('button');
  if (button?.dataset.copy !== undefined) copy(button.dataset.copy.replaceAll('\\n', '\n'), button);
  if (button?.dataset.link !== undefined) copy(location.href, button);
  if (button?.dataset.python !== undefined) copy(`import json, urllib.request\n\nview = json.load(urllib.request.urlopen(${JSON.stringify(document.querySelector('footer [data-twin]').href)}))`, button);
  if (button?.dataset.breaks !== undefined) breaks(button);
});
async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch { const box = document.createElement('textarea'); box.value = text; document.body.append(box); box.select(); document.execCommand('copy'); box.remove(); }
  const old = button.textContent; button.textContent = 'Copied'; setTimeout(() => { button.textContent = old; }, 1200);
}
function breaks(button) {
  const on = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', on);
  for (const passage of document.querySelectorAll('.passage')) {
    const walk = document.createTreeWalker(passage, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) walk.currentNode.data = on ? walk.currentNode.data.replaceAll('↵', '↵\n') : walk.currentNode.data.replaceAll('↵\n', '↵');
  }
}

document.addEventListener('submit', async event => {
  const form = event.target;
  if (form.method === 'dialog') return;
  event.preventDefault();
  const values = new URLSearchParams(new FormData(form, event.submitter));
  if (form.dataset.note === undefined) {
    for (const [key, value] of [...values]) if (value === '') values.delete(key);
    go(new URL(form.action).pathname + '?' + values);
    return;
  }
  const out = form.querySelector('output');
  const answer = await fetch('/notes', { method: 'POST', body: values });
  out.textContent = answer.ok ? 'saved' : (await answer.json()).error;
});
let typing = 0;
document.addEventListener('input', event => {
  const form = event.target.closest?.('form[data-live]');
  if (!form) return;
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const values = new URLSearchParams(new FormData(form)), place = event.target.selectionStart, name = event.target.name;
    await go(new URL(form.action).pathname + '?' + values, true, false);
    const box = document.querySelector(`form[data-live] [name=${name}]`);
    box?.focus(); if (box?.type === 'text') box.setSelectionRange(place, place);
  }, 250);
});
document.addEventListener('change', event => { if (event.target.dataset.switch !== undefined) go(location.pathname.startsWith('/sae/') ? location.pathname.replace(/^\/sae\/[^/]+/, '/sae/' + encodeURIComponent(event.target.value)).replace(/\/latents\/\d+.*/, '/latents') : `/sae/${encodeURIComponent(event.target.value)}`); });
addEventListener('popstate', () => go(location.pathname + location.search, false));

const KEYS = '/ search · j next · k previous · r random · g then o overview, l latents, p prompt, t levels, m map, a meta-latents, s stitching, c compare, x steer, u runs, n notes · ← → along the tokens of a passage · ? these keys · Esc close';
let after = '';
document.addEventListener('keydown', event => {
  const token = event.target.closest?.('.passage .t');
  if (token && (event.key === 'ArrowRight' || event.key === 'ArrowLeft')) {
    const all = [...token.parentElement.querySelectorAll('.t')], to = all[all.indexOf(token) + (event.key === 'ArrowRight' ? 1 : -1)];
    if (to) { token.tabIndex = -1; to.tabIndex = 0; to.focus(); }
    event.preventDefault();
    return;
  }
  if (event.key === 'Escape') { hide(); event.target.blur?.(); return; }
  if (event.target.matches?.('input, textarea, select') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (after === 'g') {
    after = '';
    const names = { o: 'Overview', l: 'Latents', p: 'Prompt lab', t: 'Levels', m: 'Map', a: 'Meta-latents', s: 'Stitching', c: 'Compare', x: 'Steer', u: 'Runs', n: 'Notes' };
    const link = [...document.querySelectorAll('nav a')].find(a => a.textContent === names[event.key]);
    if (link) link.click();
    return;
  }
  if (event.key === 'g') after = 'g';
  else if (event.key === '/') { event.preventDefault(); document.getElementById('q').focus(); }
  else if (event.key === '?') say(KEYS);
  else document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`)?.click();
});
settle();
