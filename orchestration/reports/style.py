"""The report's style sheet: one column on a phone, two for curves on a wide screen, light or dark as the reader has it.

The arms' colours are Okabe and Ito's, lightened for the dark page.
"""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfbfa; --card: #fff; --ink: #1c1e26; --faint: #5d6370; --line: #dfe2e7;
  --arm0: #d55e00; --arm1: #0072b2; --arm2: #8a2be2; --arm3: #00805d; --arm4: #b3478c; --arm5: #8a6d00;
  --arm6: #2a8fd0; --arm7: #555b66; --gate: #00805d; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161b; --card: #1d2027; --ink: #eceef2; --faint: #a5acb8; --line: #363b45;
  --arm0: #ff9a4d; --arm1: #63b8f2; --arm2: #c79bff; --arm3: #45d3a5; --arm4: #ee9bcb; --arm5: #e3c34a;
  --arm6: #9bd4ff; --arm7: #b9bfca; --gate: #45d3a5; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; background: var(--paper); color: var(--ink); }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--faint); margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; }
p { margin: .6rem 0; max-width: 46rem; }
.verdict { font-size: clamp(1.25rem, 4vw, 1.7rem); line-height: 1.3; font-weight: 650; max-width: none;
  margin: 0 0 1.4rem; }
.note { color: var(--faint); font-size: .92rem; }
.tiles, .curves { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13.5rem), 1fr)); }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); }
.tiles > div, .curves > div, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem 1rem; min-width: 0; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--faint); font-size: .88rem; display: block; }
.curves > div:last-child { grid-column: 1 / -1; }
.curves > div:last-child > div { display: grid; gap: 0 1.5rem; align-items: center;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.curves h3 { font-size: 1rem; margin: 0 0 .3rem; }
figure { margin: 0; } figure svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
.sheet { background: #fff; border: 1px solid var(--line); border-radius: .6rem; }
.sheet img { display: block; width: 100%; min-width: 44rem; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--faint); font-size: .88rem; text-align: left; vertical-align: bottom; }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; } td:first-child { white-space: nowrap; }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .5rem; }
pre, code { font: .86rem/1.5 ui-monospace, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  overflow-x: auto; }
.digest { overflow-wrap: anywhere; min-width: 12rem; }
details { margin: .5rem 0; } summary { cursor: pointer; }
.tree, .tree ul { list-style: none; margin: 0; padding: 0; } .tree > li { margin-bottom: 1.2rem; }
.tree ul { margin-left: .55rem; padding-left: 1.1rem; border-left: 2px solid var(--line); }
.tree li { padding: .15rem 0; }
.kind { display: inline-block; font-size: .74rem; line-height: 1; padding: .25rem .45rem; margin-right: .5rem;
  border-radius: .3rem; border: 1px solid currentColor; color: var(--faint); }
.kind.model { color: var(--arm1); } .kind.dataset { color: var(--gate); } .kind.parameters { color: var(--arm0); }
"""
