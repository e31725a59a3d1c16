/** What the page about leaks does: it shows the cards that the boxes and the search field ask for. */
export const PAGE_SCRIPT = `
const form = document.getElementById('filter');
const search = document.getElementById('search');
const cards = [...document.querySelectorAll('#leaks article')];
function update() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    const visible = form.elements[card.dataset.tone].checked && words.every((word) => text.includes(word));
    card.hidden = !visible;
    if (visible) shown++;
  }
  document.getElementById('shown').textContent = shown + ' of ' + cards.length;
}
form.addEventListener('input', update);
form.addEventListener('submit', (event) => event.preventDefault());
update();
`;
