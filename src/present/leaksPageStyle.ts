/** The look of the page about leaks, in light and dark. */
export const PAGE_STYLE = `
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1b1f24; --soft: #5b6470; --line: #d5dae0;
  --bad: #c62f2f; --good: #1c7c3c; --allowed: #a86a00; --in: #2a63c4; --out: #7a3fb0; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1e2329; --text: #e6e9ee; --soft: #9aa4b0;
  --line: #353d47; --bad: #ff7b72; --good: #56d07c; --allowed: #e3b341; --in: #7aa9ff; --out: #c79bf2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
header { padding: 20px 32px; background: var(--card); border-bottom: 4px solid var(--good); }
header.bad { border-color: var(--bad); }
h1 { margin: 0; font-size: 26px; } header.bad h1 { color: var(--bad); } header.good h1 { color: var(--good); }
header p { margin: 4px 0 0; color: var(--soft); }
main { max-width: 1100px; margin: 0 auto; padding: 8px 32px 40px; }
h2 { margin: 28px 0 10px; font-size: 18px; }
.tree, .tree ul { list-style: none; margin: 0; padding-left: 18px; border-left: 1px solid var(--line); }
.tree { padding-left: 8px; border: 0; max-height: 320px; overflow: auto; }
.picture { background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: auto; max-height: 720px; }
svg { display: block; width: 100%; min-width: 760px; }
svg text { fill: var(--text); font: 13px system-ui, sans-serif; } svg .title { fill: var(--soft); font-weight: 600; }
svg rect { fill: var(--page); stroke: var(--line); stroke-width: 1.5; } svg path { fill: none; stroke-width: 1.5; opacity: .75; }
svg .border { stroke: var(--soft); stroke-dasharray: 6 5; }
svg .leak rect, svg path.leak { stroke: var(--bad); } svg .allowed rect, svg path.allowed { stroke: var(--allowed); }
svg .inside rect { stroke: var(--in); } svg .outside rect { stroke: var(--out); }
form { display: flex; flex-wrap: wrap; gap: 14px; align-items: center; margin-bottom: 12px; }
input[type=search] { flex: 1 1 260px; padding: 8px 12px; border: 1px solid var(--line); border-radius: 6px; background: var(--card); color: var(--text); font: inherit; }
article { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--line); border-radius: 6px; padding: 12px 16px; margin-bottom: 10px; overflow-wrap: anywhere; }
article.leak { border-left-color: var(--bad); } article.allowed { border-left-color: var(--allowed); }
article[hidden] { display: none; }
h3 { margin: 0; font-size: 15px; } h3 span { color: var(--soft); font-weight: 500; }
article p { margin: 4px 0 8px; } dl { display: grid; grid-template-columns: 90px 1fr; gap: 2px 12px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; } code { font-size: 13px; } table { border-collapse: collapse; } td { padding: 3px 16px 3px 0; vertical-align: top; }
.empty, output { color: var(--soft); }
`;
