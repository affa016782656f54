// Opens a DHAT file in Valgrind's dh_view, in a real browser, and checks what a person would see there.
//
//   node check.mjs FILE.json... [--metric end] [--chain a,b,c] [--contains TEXT] [--screenshot out.png] [--text out.txt]
//
//   --metric      total | blocks | gmax | end: what dh_view sorts by (default: end, 'At t-end (bytes)')
//   --chain       names that one branch of the tree must have in this order, from the allocating function outwards;
//                 may be given several times
//   --contains    text that the page must show; may be given several times
//   --screenshot  a picture of the page (one file only)
//   --text        the tree as text (one file only)
//
// Exits 0 when all hold, 1 when one does not, 2 when something that it needs is not installed (and says what).
// dh_view's files are found in $DH_VIEW_DIR or where Debian, Fedora and others install Valgrind's; Chromium in
// $CHROMIUM or under its usual names. The browser works offline, in a profile of its own that is removed.

import { mkdtempSync, rmSync, existsSync, readdirSync, writeFileSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const METRICS = { total: /^Total \(bytes\)$/, blocks: /^Total \(blocks\)$/, gmax: /^At t-gmax \(bytes\)$/, end: /^At t-end \(bytes\)$/ };
const LOAD_TIMEOUT_MS = 120_000;

class Missing extends Error {}

function findDhView() {
  const roots = ['/usr/libexec/valgrind', '/usr/lib/valgrind', '/usr/local/libexec/valgrind', '/usr/local/lib/valgrind'];
  for (const lib of ['/usr/lib', '/usr/lib64']) {
    if (existsSync(lib)) {
      roots.push(...readdirSync(lib, { withFileTypes: true }).filter((e) => e.isDirectory()).map((e) => join(lib, e.name, 'valgrind')));
    }
  }
  const directory = [process.env.DH_VIEW_DIR, ...roots].find((d) => d && existsSync(join(d, 'dh_view.html')));
  if (!directory) throw new Missing("dh_view.html is missing: install Valgrind ('apt-get install valgrind'), or name its directory in DH_VIEW_DIR");
  return join(directory, 'dh_view.html');
}

function findChromium() {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const onPath = (process.env.PATH ?? '').split(delimiter).flatMap((d) => names.map((n) => join(d, n)));
  const found = [process.env.CHROMIUM, '/usr/bin/chromium', ...onPath].find((p) => p && existsSync(p));
  if (!found) throw new Missing("a browser is missing: install Chromium ('apt-get install chromium'), or name it in CHROMIUM");
  return found;
}

async function findPlaywright() {
  try {
    return (await import('playwright-core')).chromium;
  } catch {
    throw new Missing(`the npm package playwright-core is missing: run 'npm ci' in ${import.meta.dirname}`);
  }
}

// Every node of the tree: the names of its whole branch up to itself, from the allocating function outwards.
// dh_view prints frames of enclosing nodes as '^n: 0x…: name (file)', its own as '#n: …'.
function branches(text) {
  const nodes = [];
  let frames = null;
  for (const line of text.split('\n')) {
    const bare = line.replace(/^[\s│├└─▶▼]*/, '');
    if (/^Allocated.* at \{$/.test(bare)) {
      frames = [];
    } else if (frames && bare === '}') {
      nodes.push(frames);
      frames = null;
    } else if (frames) {
      const frame = /^[#^]\d+: (?:0x[0-9a-f]+: )?(.*)$/i.exec(bare);
      // The name alone: 'main' is not to be found in 'f (src/main.rs:1:2)'.
      if (frame) frames.push(frame[1].replace(/ \([^()]*:\d+:\d+\)$/, ''));
    }
  }
  return nodes;
}

function hasChain(nodes, chain) {
  return nodes.some((frames) => {
    let next = 0;
    for (const frame of frames) {
      if (next < chain.length && frame.includes(chain[next])) next += 1;
    }
    return next === chain.length;
  });
}

async function check(page, dhView, file, options) {
  const fail = (why) => { throw new Error(`${file}: ${why}`); };
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  await page.goto(pathToFileURL(dhView).href);
  await page.setInputFiles('input[type=file]', file);
  await page.waitForFunction(
    () => document.querySelector('span.error') || document.querySelector('.timings p')?.textContent.startsWith('Processing time:'),
    null,
    { timeout: LOAD_TIMEOUT_MS },
  );
  const refused = () => page.evaluate(() => document.querySelector('span.error')?.textContent ?? null);
  const error = await refused();
  if (error) fail(`dh_view refuses it: ${error}`);

  const label = await page.evaluate((pattern) => {
    const select = document.querySelector('select');
    const index = [...select.options].findIndex((option) => new RegExp(pattern).test(option.label));
    if (index < 0 || select.options[index].disabled) return null;
    select.selectedIndex = index;
    select.dispatchEvent(new Event('change'));
    return select.options[index].label;
  }, METRICS[options.metric].source);
  if (!label) fail(`dh_view has no metric '${options.metric}'`);
  await page.waitForFunction((ending) => document.title.endsWith(ending), ` - ${label}`);
  const late = await refused();
  if (late) fail(`dh_view fails to sort it: ${late}`);
  const title = await page.title();
  if (title !== `DHAT Viewer - ${basename(file)} - ${label}`) fail(`the title is '${title}'`);

  // Whatever is folded has to open when clicked. (All is open at first; fold the root's children and reopen.)
  const tree = page.locator('pre').first();
  const folding = await page.evaluate(() => {
    const nodes = [...document.querySelectorAll('.internal')];
    if (nodes.length === 0) return 'none';
    const shown = () => !nodes[0].nextSibling.classList.contains('hidden');
    const before = shown();
    nodes[0].click();
    const folded = !shown();
    nodes[0].click();
    return before && folded && shown() ? 'works' : 'broken';
  });
  if (folding === 'broken') fail('its tree does not fold and expand');
  const text = await tree.innerText();
  if (/NaN|undefined/.test(text)) fail(`the page shows ${/.*(NaN|undefined).*/.exec(text)[0].trim()}`);
  if (errors.length > 0) fail(`the page threw ${errors.join('; ')}`);
  if (options.text) writeFileSync(options.text, text);
  if (options.screenshot) await page.screenshot({ path: options.screenshot });

  const nodes = branches(text);
  for (const chain of options.chain) {
    if (!hasChain(nodes, chain)) fail(`no branch has ${chain.join(' <- ')}, of ${nodes.length} nodes; the largest are:\n${nodes.slice(0, 6).map((n) => '  ' + n.join(' <- ')).join('\n')}`);
  }
  for (const wanted of options.contains) {
    if (!text.includes(wanted)) fail(`the page does not show '${wanted}'`);
  }
  console.log(`${file}: loaded, ${nodes.length} nodes shown at '${label}'`);
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      metric: { type: 'string', default: 'end' },
      chain: { type: 'string', multiple: true, default: [] },
      contains: { type: 'string', multiple: true, default: [] },
      screenshot: { type: 'string' },
      text: { type: 'string' },
    },
  });
  if (positionals.length === 0) throw new Error('no file given: node check.mjs FILE.json... [--metric end] [--chain a,b,c] [--screenshot out.png]');
  if (!METRICS[values.metric]) throw new Error(`--metric is '${values.metric}', not one of ${Object.keys(METRICS).join(', ')}`);
  if (positionals.length > 1 && (values.screenshot || values.text)) throw new Error('--screenshot and --text take one file');
  for (const file of positionals) statSync(file);
  const options = { ...values, chain: values.chain.map((chain) => chain.split(',')) };
  const [dhView, executablePath, chromium] = [findDhView(), findChromium(), await findPlaywright()];

  const profile = mkdtempSync(join(tmpdir(), 'unfreed-browser-'));
  try {
    const context = await chromium.launchPersistentContext(profile, {
      executablePath,
      headless: true,
      viewport: { width: 1280, height: 1000 },
      args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    });
    try {
      for (const file of positionals) {
        const page = await context.newPage();
        page.setDefaultTimeout(LOAD_TIMEOUT_MS);
        await check(page, dhView, resolve(file), options);
        await page.close();
      }
    } finally {
      await context.close();
    }
  } finally {
    rmSync(profile, { recursive: true, force: true });
  }
}

main().catch((error) => {
  console.error(`check.mjs: ${error.message}`);
  process.exitCode = error instanceof Missing ? 2 : 1;
});
