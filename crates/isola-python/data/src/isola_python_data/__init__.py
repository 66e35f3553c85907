"""The runtime `python-data` of the package `isola`: the file `python-data.wasm`."""
