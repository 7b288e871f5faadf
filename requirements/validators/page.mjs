// Opens a page in Chromium and looks at it: node page.mjs CHROMIUM PAGE FOLDER
// Prints one JSON document: axe-core's violations, what the page asked the network for, what overflows, console errors;
// screenshots (light, dark, narrow, print) go to FOLDER. The page's own Content-Security-Policy stays in force.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const [chromium, page, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const flags = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
if (process.getuid && process.getuid() === 0) flags.push("--no-sandbox");
const browser = await puppeteer.launch({ executablePath: chromium, headless: true, args: flags });
const result = { views: {}, requests: [], errors: [] };
const views = {
  light: { scheme: "light", width: 1100, media: "screen" },
  dark: { scheme: "dark", width: 1100, media: "screen" },
  narrow: { scheme: "light", width: 360, media: "screen" },
  print: { scheme: "light", width: 800, media: "print" },
};
try {
  for (const [name, view] of Object.entries(views)) {
    const tab = await browser.newPage();
    tab.on("request", (request) => result.requests.push(request.url()));
    tab.on("pageerror", (error) => result.errors.push(String(error)));
    tab.on("console", (message) => message.type() === "error" && result.errors.push(message.text()));
    await tab.setViewport({ width: view.width, height: 900 });
    // One call for both: Puppeteer's two calls each forget what the other set.
    const cdp = await tab.createCDPSession();
    const features = [{ name: "prefers-color-scheme", value: view.scheme }];
    await cdp.send("Emulation.setEmulatedMedia", { media: view.media, features });
    await tab.goto(pathToFileURL(page).href, { waitUntil: "load" });
    const facts = await tab.evaluate(() => ({
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      background: getComputedStyle(document.body).backgroundColor,
      height: document.documentElement.scrollHeight,
    }));
    await tab.evaluate(axe);
    const found = await tab.evaluate(async () => {
      const report = await window.axe.run(document, { resultTypes: ["violations"] });
      return report.violations.map((v) => ({ id: v.id, impact: v.impact, nodes: v.nodes.slice(0, 5).map((n) => n.html.slice(0, 200) + " :: " + n.failureSummary.slice(0, 300)) }));
    });
    await tab.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
    result.views[name] = { ...facts, violations: found };
    await tab.close();
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(result));
