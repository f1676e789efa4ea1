// Picks the skeleton that fits, then loads the program and starts it.
let token = null;
try {
  token = localStorage.getItem('minute-credit.token');
} catch {
  // Storage is forbidden here: the login will last as long as the page.
}
document.documentElement.classList.add(token ? 'known' : 'new');

import('{{script}}')
  .then((glue) => glue.default({ module_or_path: '{{program}}' }))
  .catch((error) => {
    console.error(error);
    document.getElementById('broken').removeAttribute('hidden');
  });
