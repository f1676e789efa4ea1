// Picks the skeleton that fits, then loads the program and starts it. Where that can't be, says why.
const root = document.documentElement;
const tell = (id) => {
  root.classList.remove('known', 'new');
  document.getElementById(id).removeAttribute('hidden');
};

let token = null;
try {
  token = localStorage.getItem('minute-credit.token');
} catch {
  // Storage is forbidden here: the login will last as long as the page.
}

// Some browsers lack WebAssembly, others have it and are told by a policy to refuse every module. To load
// the page again would help in neither case.
const runsWasm = () => {
  try {
    return Boolean(new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0)));
  } catch {
    return false;
  }
};

if (runsWasm()) {
  root.classList.add(token ? 'known' : 'new');
  import('{{script}}')
    .then((glue) => glue.default({ module_or_path: '{{program}}' }))
    .catch((error) => {
      console.error(error);
      // A module that this browser can't read is of a newer kind than it knows.
      tell(error instanceof WebAssembly.CompileError ? 'no-wasm' : 'not-loaded');
    });
} else {
  tell('no-wasm');
}
