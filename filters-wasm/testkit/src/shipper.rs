//! Fluent Bit's `filter_wasm` as far as a module sees it: a directory, copies of tag and record in the module's memory, and one
//! NUL-terminated text back (its plugins/filter_wasm/filter_wasm.c, `event_format: json`).

use std::path::Path;
use wasmtime::{Config, Engine, Instance, Linker, Memory, Module, Store, TypedFunc};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

type Filter = TypedFunc<(u32, u32, u32, u32, u32, u32), u32>;

/// A module, compiled.
pub struct Compiled {
    engine: Engine,
    module: Module,
}

impl Compiled {
    /// From its file.
    ///
    /// # Errors
    /// What wasmtime says.
    pub fn of(module: &Path) -> Result<Compiled, wasmtime::Error> {
        let mut config = Config::new();
        config.signals_based_traps(false);
        let engine = Engine::new(&config)?;
        Ok(Compiled { module: Module::from_file(&engine, module)?, engine })
    }
}

/// A module, started.
pub struct Shipper {
    store: Store<WasiP1Ctx>,
    memory: Memory,
    malloc: TypedFunc<u32, u32>,
    free: TypedFunc<u32, ()>,
    filter: Filter,
}

impl Shipper {
    /// Starts a module that may see a directory, where its configuration is.
    ///
    /// # Errors
    /// What wasmtime says: the module has ended itself if its configuration is bad.
    pub fn start(compiled: &Compiled, dir: &Path) -> Result<Shipper, wasmtime::Error> {
        let Compiled { engine, module } = compiled;
        let mut linker: Linker<WasiP1Ctx> = Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_sync(&mut linker, |w| w)?;
        let mut wasi = WasiCtxBuilder::new();
        wasi.preopened_dir(dir, dir.to_string_lossy(), FsPerms::ReadOnly)?;
        let mut store = Store::new(engine, wasi.build_p1());
        let instance = linker.instantiate(&mut store, module)?;
        let initialize: TypedFunc<(), ()> = instance.get_typed_func(&mut store, "_initialize")?;
        initialize.call(&mut store, ())?;
        fn function<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
            instance: &Instance,
            store: &mut Store<WasiP1Ctx>,
            name: &str,
        ) -> Result<TypedFunc<P, R>, wasmtime::Error> {
            instance.get_typed_func(store, name)
        }
        let malloc = function(&instance, &mut store, "malloc")?;
        let free = function(&instance, &mut store, "free")?;
        let filter = function(&instance, &mut store, "waxseal_filter")?;
        let memory = instance.get_memory(&mut store, "memory").expect("a memory");
        Ok(Shipper { store, memory, malloc, free, filter })
    }

    /// What the filter gives back for a record, which is NUL-terminated as the host hands it over.
    ///
    /// # Errors
    /// A trap: the host drops the record.
    ///
    /// # Panics
    /// If the answer has no end, or the module no memory.
    pub fn record(&mut self, tag: &str, time: (u32, u32), record: &[u8]) -> Result<Vec<u8>, wasmtime::Error> {
        let put = |store: &mut Store<WasiP1Ctx>, bytes: &[u8]| -> Result<u32, wasmtime::Error> {
            let at = self.malloc.call(&mut *store, bytes.len() as u32 + 1)?;
            assert_ne!(at, 0, "no memory");
            self.memory.write(&mut *store, at as usize, bytes)?;
            self.memory.write(&mut *store, at as usize + bytes.len(), &[0])?;
            Ok(at)
        };
        let tag_at = put(&mut self.store, tag.as_bytes())?;
        let record_at = put(&mut self.store, record)?;
        let place = (tag_at, tag.len() as u32, time.0, time.1, record_at, record.len() as u32);
        let answer = self.filter.call(&mut self.store, place)? as usize;
        let from = &self.memory.data(&self.store)[answer..];
        let text = from[..from.iter().position(|c| *c == 0).expect("an end")].to_vec();
        self.free.call(&mut self.store, record_at)?;
        self.free.call(&mut self.store, tag_at)?;
        Ok(text)
    }

    /// How much memory the module has, in bytes.
    pub fn memory(&self) -> usize {
        self.memory.data_size(&self.store)
    }
}
