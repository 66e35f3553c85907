// Runs `measure` of adapter.py in Pyodide. Arguments: the path of Pyodide's module, the source
// of adapter.py, the directory of the packages, the path at which Python sees it, and the other
// arguments of `measure`.

const [module, adapter, host, guest, ...args] = process.argv.slice(1);
const { loadPyodide } = await import(module);
const pyodide = await loadPyodide({
  stdout: (line) => console.log(`${line}, Pyodide ${pyodide.version}, Node.js ${process.version}`),
});
pyodide.mountNodeFS(guest, host);
pyodide.runPython(adapter);
pyodide.globals.get('measure')(guest, ...args);
