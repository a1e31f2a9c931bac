// Opens build/site from disk in a headless browser: every page that the navigation names has its heading and text, links
// lead somewhere, the search finds, and nothing complains. Leaves build/site.png. Needs Chromium (Debian: chromium).
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const site = resolve(fileURLToPath(import.meta.url), '../../build/site');
const candidates = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const executablePath = candidates.find(existsSync);
if (!executablePath) throw new Error('no browser is installed; install Chromium (Debian: apt-get install chromium)');

const pages = [
  ['index.html', ['Attention for Node.js', 'Tensors and streams']],
  ['documents/Documentation.html', ['Getting started', 'Performance']],
  ['documents/How_it_is_built.html', ['Streams and timelines']],
  ['documents/KV_cache.html', ['Decoding appends one token', 'safetensors']],
  ['functions/index.attention.html', ['Scaled dot-product attention', 'kvHeads', 'AttentionError']],
  ['interfaces/index.AttentionOptions.html', ['softcap', 'cuSeqlens']],
  ['classes/index.Tensor.html', ['A typed, strided array on a device', 'ERR_PENDING']],
];

const isFile = (path) => existsSync(path) && statSync(path).isFile();

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const problems = [];
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.on('console', (message) => message.type() === 'error' && problems.push(`${page.url()}: ${message.text()}`));
  page.on('pageerror', (error) => problems.push(`${page.url()}: ${error.message}`));
  page.on('requestfailed', (request) => problems.push(`${page.url()}: ${request.url()} is missing`));

  for (const [name, texts] of pages) {
    await page.goto(pathToFileURL(resolve(site, name)).href);
    const shown = await page.innerText('.col-content');
    for (const text of texts) if (!shown.includes(text)) problems.push(`${name} does not say '${text}'`);
    const links = await page.$$eval('a[href]', (all) => all.map((link) => link.href));
    for (const link of new Set(links)) {
      const url = new URL(link);
      if (url.protocol === 'file:' && !isFile(fileURLToPath(new URL(url.pathname, url)))) {
        problems.push(`${name} links to ${url.pathname}, which is missing`);
      }
    }
  }

  await page.goto(pathToFileURL(resolve(site, 'index.html')).href);
  await page.waitForSelector('nav.tsd-navigation a[href*="attention"]', { timeout: 10_000 });
  const picture = resolve(site, '../site.png');
  await page.screenshot({ path: picture });
  if (statSync(picture).size < 50_000) problems.push(`${picture} shows next to nothing`);

  await page.keyboard.press('Control+k');
  await page.keyboard.type('neighborhood');
  await page.waitForSelector('#tsd-search-results a[href*="neighborhood"]', { timeout: 10_000 });
} finally {
  await browser.close();
}
for (const problem of new Set(problems)) console.error(problem);
if (problems.length > 0) process.exit(1);
console.log(`${pages.length} pages in order; screenshot in build/site.png`);
