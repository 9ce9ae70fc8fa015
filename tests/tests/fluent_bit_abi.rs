//! A host that loads the built plugin as Fluent Bit does: `dlopen`, its structs, its properties, flushes in coroutines
//! on stacks of 24 KiB (with a guard page, which Fluent Bit's have not), several instances, reloads, failed starts.

#![allow(unsafe_code)] // the host's side of the C ABI

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use waxseal_e2e::process::{Site, bin, each_record, local_store};

const OK: c_int = 1;
const RETRY: c_int = 2;
const STACK: usize = 24 * 1024;

/// `flb_plugin_proxy_def` up to what v4.2 has, and what newer ones have behind it, painted.
#[repr(C)]
struct Definition {
    kind: c_int,
    proxy: c_int,
    flags: c_int,
    name: *mut c_char,
    description: *mut c_char,
    behind: [u8; 16],
}

#[repr(C)]
struct Api {
    output_get_property: extern "C" fn(*const c_char, *mut c_void) -> *const c_char,
    none: [usize; 3],
    /// Variadic in C; the callee sees the same registers.
    log_print: extern "C" fn(c_int, *const c_char, c_int, *const c_char, *const c_char),
}

#[repr(C)]
struct ProxyContext {
    remote_context: *mut c_void,
    proxy: *mut c_void,
}

/// `flbgo_output_plugin`, with its callbacks painted: they are the host's.
#[repr(C)]
struct OutputPlugin {
    name: *mut c_char,
    api: *const Api,
    instance: *mut c_void,
    context: *mut ProxyContext,
    callbacks: [usize; 5],
}

type Register = unsafe extern "C" fn(*mut Definition) -> c_int;
type Init = unsafe extern "C" fn(*mut OutputPlugin) -> c_int;
type Flush = unsafe extern "C" fn(*mut c_void, *const c_void, usize, *mut c_char) -> c_int;
type Exit = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The properties of an output; names are compared as the host does, whatever their case.
struct Properties(HashMap<String, CString>);

extern "C" fn get_property(name: *const c_char, instance: *mut c_void) -> *const c_char {
    let (name, properties) = unsafe { (CStr::from_ptr(name), &*instance.cast::<Properties>()) };
    let name = name.to_string_lossy().to_lowercase();
    properties.0.get(&name).map_or(std::ptr::null(), |v| v.as_ptr())
}

static LOG: Mutex<Vec<(c_int, String)>> = Mutex::new(Vec::new());

extern "C" fn log_print(
    level: c_int,
    _: *const c_char,
    _: c_int,
    format: *const c_char,
    text: *const c_char,
) {
    let (format, text) = unsafe { (CStr::from_ptr(format), CStr::from_ptr(text)) };
    assert_eq!(format, c"%s", "a format that is not the plugin's own");
    LOG.lock().unwrap().push((level, text.to_string_lossy().into_owned()));
}

fn logged(part: &str) -> bool {
    LOG.lock().unwrap().iter().any(|(_, l)| l.contains(part))
}

struct Host {
    library: libloading::os::unix::Library,
    api: Api,
}

impl Host {
    fn load() -> Host {
        // RTLD_LAZY and nothing else, as the host does.
        let library = unsafe { libloading::os::unix::Library::open(Some(bin("libwaxseal_sink.so")), 1) };
        let library = library.unwrap_or_else(|e| panic!("the plugin does not load: {e}"));
        let api = Api { output_get_property: get_property, none: [0; 3], log_print };
        Host { library, api }
    }

    fn symbol<T: Copy>(&self, name: &str) -> T {
        unsafe { *self.library.get::<T>(name.as_bytes()).unwrap() }
    }

    fn register(&self) {
        let mut def = Definition {
            kind: -1,
            proxy: -1,
            flags: -1,
            name: std::ptr::null_mut(),
            description: std::ptr::null_mut(),
            behind: [0xaa; 16],
        };
        let result = unsafe { self.symbol::<Register>("FLBPluginRegister")(&raw mut def) };
        assert_eq!((result, def.kind, def.proxy, def.flags), (0, 2, 11, 0));
        assert_eq!(unsafe { CStr::from_ptr(def.name) }, c"waxseal");
        assert!(!def.description.is_null());
        assert_eq!(def.behind, [0xaa; 16], "written beyond what old hosts have");
    }

    /// The context of a started output, or `None` if it refused to start.
    fn init(&self, properties: &[(&str, &str)]) -> Option<usize> {
        let properties = Properties(
            properties.iter().map(|(k, v)| ((*k).to_owned(), CString::new(*v).unwrap())).collect(),
        );
        let mut context = ProxyContext { remote_context: std::ptr::null_mut(), proxy: 0xbb as *mut c_void };
        let mut name = *b"waxseal\0";
        let mut out = OutputPlugin {
            name: name.as_mut_ptr().cast(),
            api: &raw const self.api,
            instance: (&raw const properties).cast_mut().cast(),
            context: &raw mut context,
            callbacks: [0xcc; 5],
        };
        let result = unsafe { self.symbol::<Init>("FLBPluginInit")(&raw mut out) };
        assert_eq!((out.callbacks, context.proxy as usize), ([0xcc; 5], 0xbb));
        assert!(result == 1 || result <= 0);
        (result == 1).then_some(context.remote_context as usize)
    }

    /// A flush in a coroutine on a stack of its own, as the engine does it.
    fn flush(&self, context: usize, data: &[u8], tag: &str) -> c_int {
        let flush: Flush = self.symbol("FLBPluginFlushCtx");
        let tag = CString::new(tag).unwrap();
        let stack = DefaultStack::new(STACK).unwrap();
        let (at, len, tag_at) = (data.as_ptr() as usize, data.len(), tag.as_ptr() as usize);
        let mut coroutine = Coroutine::<(), (), c_int, _>::with_stack(stack, move |_, ()| unsafe {
            flush(context as *mut c_void, at as *const c_void, len, tag_at as *mut c_char)
        });
        match coroutine.resume(()) {
            CoroutineResult::Return(code) => code,
            CoroutineResult::Yield(()) => unreachable!(),
        }
    }

    fn exit(&self, context: usize) {
        unsafe { self.symbol::<Exit>("FLBPluginExitCtx")(context as *mut c_void) };
    }
}

/// A chunk with `count` entries from number `first` on.
fn chunk(first: usize, count: usize) -> Vec<u8> {
    padded_chunk(first, count, 200)
}

/// The same with so much padding in each entry.
fn padded_chunk(first: usize, count: usize, pad: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for n in first..first + count {
        out.extend_from_slice(&[0x92, 0x92, 0xd7, 0, 0x65, 0x92, 0, 0x80, 0, 0, 0, 1, 0x80, 0x82]);
        out.extend_from_slice(&[0xa1, b'n', 0xce]);
        out.extend_from_slice(&(n as u32).to_be_bytes());
        out.extend_from_slice(&[0xa3, b'p', b'a', b'd', 0xda]);
        out.extend_from_slice(&pad.to_be_bytes());
        out.resize(out.len() + usize::from(pad), b'x');
    }
    out
}

fn numbers(trail: &Path) -> Vec<u64> {
    let mut seen = Vec::new();
    each_record(&local_store(trail), &[], &mut |v| {
        if v["source"]["intake"] == "fluentbit" {
            assert_eq!(v["source"]["tag"], "app.log");
            seen.extend(v["metadata"]["n"].as_u64());
        }
    });
    seen.sort_unstable();
    seen
}

/// One test: the plugin's log and its statics are the process's.
#[test]
fn as_fluent_bit_does_it() {
    let before = signals();
    let host = Host::load();
    host.register();
    // A dry run: no start, and an exit without a context.
    host.exit(0);
    assert_eq!(host.flush(0, b"", "t"), RETRY);

    // What a start refuses, and says.
    assert!(host.init(&[]).is_none());
    assert!(logged("`config` is not set"));
    assert!(host.init(&[("config", "/nowhere.yaml")]).is_none());
    assert!(logged("/nowhere.yaml"));
    let (one, two) = (Site::new("batch: {max_age: 200ms}\n"), Site::new(""));
    let with_http = one.path("sink.yaml").display().to_string();
    assert!(host.init(&[("config", &with_http)]).is_none());
    assert!(logged("the shipper is the intake"));
    let (config_one, config_two) = (one.without_intake(), two.without_intake());
    let first = host.init(&[("config", &config_one)]).expect("it starts");
    assert!(host.init(&[("config", &config_one)]).is_none(), "two outputs with one state directory");
    assert!(logged("in use by another sink"));
    // The host calls the exit of what failed without a context: the other output goes on.
    host.exit(0);
    let second = host.init(&[("config", &config_two), ("writer", "node-1")]).expect("a second one starts");
    assert!(host.init(&[("config", &config_two), ("trail", "another")]).is_none());

    // Concurrent flushes (`workers: N`), and equal chunks, which are two chunks.
    assert_eq!(host.flush(first, b"", "app.log"), OK);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for n in 0..10 {
                    assert_eq!(host.flush(first, &chunk((t * 10 + n) * 100, 100), "app.log"), OK);
                }
            });
        }
    });
    assert_eq!(host.flush(first, &chunk(0, 100), "app.log"), OK);
    // A chunk larger than a part.
    assert_eq!(host.flush(second, &chunk(0, 20_000), "app.log"), OK);
    // Bytes that are none of its: sealed as they are.
    assert_eq!(host.flush(second, b"\xc1 what is this", "app.log"), OK);

    // A panic inside: the host gets RETRY and lives.
    assert_eq!(host.flush(first, &chunk(9000, 1), "waxseal.test.panic"), RETRY);
    assert!(logged("provoked by a test"));

    // A hot reload: registered anew, the old ones end, new ones start on the same state.
    host.register();
    host.exit(first);
    host.exit(second);
    let first = host.init(&[("config", &config_one)]).expect("it starts again");
    // What came before this life is the same chunk again; what comes twice in it is not.
    assert_eq!(host.flush(first, &chunk(3900, 100), "app.log"), OK);
    assert_eq!(host.flush(first, &chunk(4000, 100), "app.log"), OK);
    host.exit(first);

    assert_numbers(&one.path("trail"), (0..4100).chain(0..100).collect());
    assert_numbers(&two.path("trail"), (0..20_000).collect());
    for site in [&one, &two] {
        let (exit, report) = site.verify(&[]);
        assert_eq!(exit, 0, "{report:#}");
    }
    // A spool that takes nothing more: RETRY, and nothing is lost or doubled by it.
    let full = Site::new("");
    let config_full = full.without_intake();
    let yaml = std::fs::read_to_string(&config_full).unwrap()
        + "spool: {max_bytes: 64MiB}\nheartbeat: 1h\nbatch: {max_events: 300}\n";
    std::fs::write(&config_full, yaml).unwrap();
    let output = host.init(&[("config", &config_full)]).expect("it starts");
    full.settle();
    full.store_away();
    const PART: usize = 100;
    let mut refused = None;
    for n in 0..200 {
        if host.flush(output, &padded_chunk(n * PART, PART, 20_000), "app.log") == RETRY {
            refused = Some(n);
            break;
        }
    }
    let refused = refused.expect("a spool without end");
    full.store_back();
    let trail = full.path("trail");
    let deadline = Instant::now() + Duration::from_secs(120);
    while host.flush(output, &padded_chunk(refused * PART, PART, 20_000), "app.log") != OK {
        assert!(Instant::now() < deadline, "the store is back, and the spool stays full");
        std::thread::sleep(Duration::from_millis(100));
    }
    host.exit(output);
    // What a short grace left over is stored at the next start, or, on a slow machine, at one of the next.
    for _ in 0..20 {
        let again = host.init(&[("config", &config_full)]).expect("it starts");
        host.exit(again);
        if full.verify(&[]).0 == 0 && numbers(&trail).len() == (refused + 1) * PART {
            break;
        }
    }
    assert_numbers(&trail, (0..((refused + 1) * PART) as u64).collect());
    assert_eq!(full.verify(&[]).0, 0);
    assert_eq!(signals(), before, "the host's signal handlers are its own");
    a_guest_out_of_bounds_after_a_reload(&host);
}

/// At SIGHUP Fluent Bit installs its own handlers again, and that of SIGSEGV ends it (src/flb_signals.c): a trap in a
/// filter must be none of the processor's.
fn a_guest_out_of_bounds_after_a_reload(host: &Host) {
    extern "C" fn fatal(signal: c_int) {
        let said = b"a signal that ends the host\n";
        // SAFETY: both may be called in a handler.
        unsafe {
            libc::write(2, said.as_ptr().cast(), said.len());
            libc::_exit(128 + signal);
        }
    }
    extern "C" fn hang_up(_: c_int) {
        install();
    }
    fn install() {
        // SAFETY: the handlers call nothing but what may be called in one.
        unsafe {
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
                libc::signal(signal, fatal as *const () as libc::sighandler_t);
            }
            libc::signal(libc::SIGHUP, hang_up as *const () as libc::sighandler_t);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let filter = waxseal_filter_testkit::module_of(dir.path(), "beyond", waxseal_filter_testkit::BEYOND);
    let site = Site::new(&format!(
        "filters:\n  - {{module: {}, config: {}}}\n",
        filter.module.display(),
        filter.config.display()
    ));
    let config = site.without_intake();
    install();
    let output = host.init(&[("config", &config)]).expect("it starts");
    assert_eq!(host.flush(output, &chunk(0, 100), "app.log"), OK);
    // SAFETY: the handler is the one above.
    assert_eq!(unsafe { libc::raise(libc::SIGHUP) }, 0);
    assert_eq!(host.flush(output, &chunk(100, 100), "app.log"), OK);
    host.exit(output);
    let output = host.init(&[("config", &config)]).expect("it starts again");
    assert_eq!(host.flush(output, &chunk(200, 100), "app.log"), OK);
    host.exit(output);
    assert_numbers(&site.path("trail"), (0..300).collect());
    let mut marked = 0;
    each_record(&local_store(&site.path("trail")), &[], &mut |v| {
        marked +=
            usize::from(v["metadata"]["$filter_errors"][0].as_str().is_some_and(|e| e.contains("trap")));
    });
    assert_eq!((marked, site.verify(&[]).0), (300, 0));
    // SAFETY: as it was.
    unsafe {
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// The same under memcheck, where there is one: no byte is read that was not written, or is not ours.
#[test]
fn under_valgrind() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("no valgrind in PATH: the ABI host was not run under it");
        return;
    }
    let run = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=99", "--num-callers=30"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "as_fluent_bit_does_it", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}: {said}", run.status);
    assert!(said.contains("1 passed"), "{said}");
}

/// What the plugin brings into the host's process, and what it needs there.
#[test]
fn it_exports_its_four_functions_and_needs_glibc() {
    let listed = |tool: &str, args: &[&str]| -> Option<String> {
        let run = Command::new(tool).args(args).arg(bin("libwaxseal_sink.so")).output().ok()?;
        assert!(run.status.success(), "{tool}: {}", String::from_utf8_lossy(&run.stderr));
        Some(String::from_utf8(run.stdout).unwrap())
    };
    let (Some(symbols), Some(dynamic)) =
        (listed("nm", &["-D", "--defined-only"]), listed("readelf", &["-d", "-W"]))
    else {
        println!("no nm or readelf in PATH: the plugin's symbols were not looked at");
        return;
    };
    let exported: BTreeSet<&str> = symbols.lines().filter_map(|l| l.split_whitespace().last()).collect();
    let four = ["FLBPluginExitCtx", "FLBPluginFlushCtx", "FLBPluginInit", "FLBPluginRegister"];
    assert_eq!(exported, BTreeSet::from(four));
    for line in dynamic.lines().filter(|l| l.contains("(NEEDED)")) {
        let name = line.split(['[', ']']).nth(1).unwrap();
        let system =
            ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
        assert!(system.contains(&name), "it needs {name}");
    }
}

/// Which signals are caught, ignored and blocked here.
fn signals() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let of_signals = |l: &&str| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|s| l.starts_with(s));
    status.lines().filter(of_signals).map(str::to_owned).collect()
}

/// Exactly these, in a message that can be read.
fn assert_numbers(trail: &Path, mut want: Vec<u64>) {
    want.sort_unstable();
    let seen = numbers(trail);
    let first = seen.iter().zip(&want).position(|(a, b)| a != b);
    assert!(seen == want, "{} numbers of {}; the first that differs is at {first:?}", seen.len(), want.len());
}
