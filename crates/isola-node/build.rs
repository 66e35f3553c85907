//! Configures the linker to leave the symbols of Node.js undefined until the library is loaded.

fn main() {
    napi_build::setup();
}
