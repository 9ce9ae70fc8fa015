//! `make bench`: sealing and verifying beside `sha256sum`, `zstd -1` and `zstd -3` of the same bytes, in one run.
//!
//! Prints Markdown. Ratios are the point: absolute figures are this machine's, now.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use waxseal_e2e::process::peak_resident;
use waxseal_filter_host::Filters;
use waxseal_sink::Context;
use waxseal_sink::chain::{Chunk, Redelivery};
use waxseal_sink::config::Config;
use waxseal_sink::pipeline::Pipeline;
use waxseal_trail::hash::sha256;
use waxseal_trail::record::{Converter, Events};

/// `utime`, `stime`, `cutime` and `cstime` of a `stat` file, in seconds (proc(5)).
fn times(stat: &Path) -> [f64; 4] {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    // The name before the bracket may hold anything.
    let mut fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11);
    [(); 4].map(|()| fields.next().and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) / 100.0)
}

fn peak_mib(pid: u32) -> f64 {
    peak_resident(pid).unwrap_or(0) as f64 / 1024.0
}

/// User and system seconds of this process, of its ended children, and its peak resident MiB.
fn usage() -> (f64, f64, f64) {
    let [user, system, children_user, children_system] = times(Path::new("/proc/self/stat"));
    (user + system, children_user + children_system, peak_mib(std::process::id()))
}

/// CPU seconds of each live thread of this process that is one of the sink's.
fn threads() -> Vec<(String, f64)> {
    let mut out = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let [user, system, ..] = times(&task.path().join("stat"));
        if name.starts_with("wax-") {
            out.push((name.trim().to_owned(), user + system));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

/// CPU seconds of a command over a file.
fn command(program: &str, args: &[&str], file: &Path) -> f64 {
    let before = usage().1;
    let status =
        Command::new(program).args(args).arg(file).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !status.is_ok_and(|s| s.success()) {
        return f64::NAN;
    }
    usage().1 - before
}

fn cpu(work: impl FnOnce()) -> f64 {
    let before = usage().0;
    work();
    usage().0 - before
}

/// A JSON value as MessagePack, each integer and string in its shortest form.
fn msgpack(v: &serde_json::Value, out: &mut Vec<u8>) {
    use serde_json::Value as V;
    let head = |n: usize, small: u8, most: usize, wide: u8, out: &mut Vec<u8>| {
        if n < most {
            out.push(small | n as u8);
        } else {
            out.push(wide);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
    };
    match v {
        V::Null => out.push(0xc0),
        V::Bool(b) => out.push(0xc2 | u8::from(*b)),
        V::Number(n) => match n.as_u64() {
            Some(n) if n < 128 => out.push(n as u8),
            Some(n) => {
                out.push(0xcf);
                out.extend_from_slice(&n.to_be_bytes());
            }
            None => {
                out.push(0xcb);
                out.extend_from_slice(&n.as_f64().unwrap_or(0.0).to_be_bytes());
            }
        },
        V::String(s) => {
            if s.len() < 32 {
                out.push(0xa0 | s.len() as u8);
            } else if s.len() < 256 {
                out.extend_from_slice(&[0xd9, s.len() as u8]);
            } else {
                out.push(0xda);
                out.extend_from_slice(&(s.len() as u16).to_be_bytes());
            }
            out.extend_from_slice(s.as_bytes());
        }
        V::Array(a) => {
            head(a.len(), 0x90, 16, 0xdc, out);
            a.iter().for_each(|v| msgpack(v, out));
        }
        V::Object(o) => {
            head(o.len(), 0x80, 16, 0xde, out);
            for (k, v) in o {
                msgpack(&V::String(k.clone()), out);
                msgpack(v, out);
            }
        }
    }
}

const CHUNK: usize = 1000;

struct Sealed {
    seconds: f64,
    cpu: f64,
    peak: f64,
    stored: u64,
    threads: Vec<(String, f64)>,
    trail: PathBuf,
    trust: PathBuf,
}

fn dir_size(dir: &Path) -> u64 {
    let mut n = 0;
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let p = e.path();
        if p.file_name().is_some_and(|f| f == ".retention" || f == ".tmp") {
            continue;
        }
        n += if p.is_dir() { dir_size(&p) } else { e.metadata().map_or(0, |m| m.len()) };
    }
    n
}

/// Seals all chunks, `times` over, from two producing threads.
fn seal(root: &Path, name: &str, chunks: &[Vec<Vec<u8>>], json: bool, times: usize) -> Sealed {
    let dir = root.join(name);
    let waxseal = waxseal_e2e::process::bin("waxseal");
    let run = |args: &[&str]| {
        assert!(Command::new(&waxseal).args(args).stdout(Stdio::null()).status().is_ok_and(|s| s.success()))
    };
    let p = |s: &str| dir.join(s).display().to_string();
    run(&[
        "init",
        "--store",
        &format!("file://{}", p("trail")),
        "--name",
        "bench",
        "--lock",
        "none",
        "--retention",
        "2555d",
        "--out",
        &p("keys"),
    ]);
    run(&[
        "keys",
        "generate",
        "--algorithm",
        "rsa",
        "--out",
        &p("w"),
        "--name",
        "bench-1",
        "--trust",
        &p("keys/trust.yaml"),
    ]);
    let yaml = format!(
        "trail: bench\nwriter: bench-1\nstate_dir: {}\nstore: file://{}\nretention: 2555d\nsigning:\n  - key: file:{}\n",
        p("state"),
        p("trail"),
        p("w/signing.key")
    );
    std::fs::write(dir.join("c.yaml"), yaml).expect("writable");
    let config = Config::load(&dir.join("c.yaml")).expect("a good configuration");
    let pipeline = Pipeline::start(Context::system(config).expect("the store is there"), Filters::default())
        .expect("it starts");
    let before = usage();
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let submitter = pipeline.submitter();
                let mut converter = Converter::default();
                // Shippers have some requests under way at once; so has this.
                let mut pending = std::collections::VecDeque::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= chunks.len() * times {
                        break;
                    }
                    let chunk = &chunks[i % chunks.len()];
                    let mut events = submitter.buffer();
                    for e in chunk {
                        if json { converter.json(e, &mut events) } else { converter.msgpack(e, &mut events) }
                    }
                    let source = b"{\"intake\":\"http\",\"peer\":\"127.0.0.1\"}".to_vec();
                    let redelivery = Redelivery::Always;
                    let chunk_of =
                        Chunk { events, source, key: None, redelivery, passed: Default::default() };
                    pending.push_back(submitter.submit(chunk_of, chunk.iter().map(Vec::len).sum()));
                    if pending.len() > 8 {
                        let done = pending.pop_front().map(waxseal_sink::answer::Pending::wait);
                        assert!(matches!(done, Some(Ok(_))), "a chunk was refused");
                    }
                }
                for answer in pending {
                    assert!(answer.wait().is_ok(), "a chunk was refused");
                }
            });
        }
    });
    let threads = threads();
    // To the last signed header in the store.
    pipeline.stop(Duration::from_secs(120)).expect("it stops");
    let after = usage();
    Sealed {
        seconds: begun.elapsed().as_secs_f64(),
        cpu: after.0 - before.0,
        peak: after.2,
        stored: dir_size(&dir.join("trail")),
        threads,
        trail: dir.join("trail"),
        trust: dir.join("keys/trust.yaml"),
    }
}

fn verify(s: &Sealed, quick: bool) -> (f64, f64, f64) {
    let before = usage().1;
    let begun = Instant::now();
    let mut c = Command::new(waxseal_e2e::process::bin("waxseal"));
    c.arg("verify").arg(&s.trail).arg("--trust").arg(&s.trust);
    if quick {
        c.arg("--quick");
    }
    // GNU time would do; /proc is nearer.
    let mut child = c.stdout(Stdio::null()).spawn().expect("waxseal runs");
    let mut peak = 0.0f64;
    let status = loop {
        if let Some(s) = child.try_wait().expect("it is ours") {
            break s;
        }
        peak = peak.max(peak_mib(child.id()));
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "verify said {status}");
    (begun.elapsed().as_secs_f64(), usage().1 - before, peak)
}

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let times: usize = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(5);
    let mode = std::env::args().nth(3);
    let root = tempfile::tempdir_in(
        std::env::var_os("WAXSEAL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from),
    )
    .expect("a directory");
    let file = root.path().join("events.ndjson");
    let made = Command::new(waxseal_e2e::process::bin("waxseal"))
        .args(["generate", "--count", &count.to_string(), "--output"])
        .arg(&file)
        .status();
    assert!(made.is_ok_and(|s| s.success()));
    let text = std::fs::read(&file).expect("made");
    let lines: Vec<Vec<u8>> =
        text.split(|c| *c == b'\n').filter(|l| !l.is_empty()).map(<[u8]>::to_vec).collect();
    let packed: Vec<Vec<u8>> = lines
        .iter()
        .map(|l| {
            let mut out = Vec::new();
            msgpack(&serde_json::from_slice(l).expect("made"), &mut out);
            out
        })
        .collect();
    let json_bytes: usize = lines.iter().map(Vec::len).sum();
    let n = lines.len() as f64;
    let per = |seconds: f64| seconds / n * 1e6;
    println!(
        "{} events of {} bytes on average as JSON; {}.\n",
        lines.len(),
        json_bytes / lines.len(),
        machine()
    );

    // The same bytes, many times over, so that 10 ms ticks do not matter.
    let big = root.path().join("big");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&big).expect("writable"));
    for _ in 0..5 {
        out.write_all(&text).expect("writable");
    }
    out.flush().expect("writable");
    drop(out);
    let _ = std::fs::read(&big);
    let sha_cmd = command("sha256sum", &[], &big) / 5.0;
    let z1_cmd = command("zstd", &["-1", "-T1", "-c", "-q"], &big) / 5.0;
    let z3_cmd = command("zstd", &["-3", "-T1", "-c", "-q"], &big) / 5.0;
    let sha = cpu(|| {
        (0..5).for_each(|_| {
            lines.iter().for_each(|l| {
                std::hint::black_box(sha256(l));
            })
        })
    }) / 5.0;
    let z1 = cpu(|| {
        for _ in 0..5 {
            let mut e = zstd::stream::Encoder::new(std::io::sink(), 1).expect("zstd");
            e.write_all(&text).expect("sink");
            let _ = e.finish();
        }
    }) / 5.0;
    let base = sha + z1;
    println!("| baseline, one core | CPU µs an event |\n|---|---|");
    println!(
        "| `sha256sum` | {:.2} |\n| `zstd -1` | {:.2} |\n| `zstd -3` | {:.2} |",
        per(sha_cmd),
        per(z1_cmd),
        per(z3_cmd)
    );
    println!(
        "| SHA-256 in process, event by event | {:.2} |\n| zstd level 1 in process | {:.2} |\n| **SHA-256 + zstd -1, in process** | **{:.2}** |\n",
        per(sha),
        per(z1),
        per(base)
    );

    let convert = |list: &[Vec<u8>], json: bool| {
        cpu(|| {
            let mut converter = Converter::default();
            for _ in 0..3 {
                for chunk in list.chunks(CHUNK) {
                    let mut events = Events::default();
                    for e in chunk {
                        if json { converter.json(e, &mut events) } else { converter.msgpack(e, &mut events) }
                    }
                    std::hint::black_box(&events);
                }
            }
        }) / 3.0
    };
    println!(
        "Conversion alone: {:.2} µs from JSON, {:.2} µs from MessagePack.\n",
        per(convert(&lines, true)),
        per(convert(&packed, false))
    );
    let chunk = |l: &[Vec<u8>]| l.chunks(CHUNK).map(<[Vec<u8>]>::to_vec).collect::<Vec<_>>();
    println!(
        "| sealing, two cores | events/s | CPU µs an event | of the baseline | peak RSS of the bench, MiB | stored bytes an event |\n|---|---|---|---|---|---|"
    );
    let mut last = None;
    for (name, list, json) in [("MessagePack", &packed, false), ("JSON", &lines, true)] {
        if mode.as_deref().is_some_and(|m| m != name) {
            continue;
        }
        let s = seal(root.path(), name, &chunk(list), json, times);
        let all = n * times as f64;
        println!(
            "| {name} | {:.0} | {:.2} | {:.2}x | {:.0} | {:.0} |",
            all / s.seconds,
            s.cpu / all * 1e6,
            (s.cpu / all) / (base / n),
            s.peak,
            s.stored as f64 / all
        );
        for (name, seconds) in &s.threads {
            eprintln!("{name}: {:.2} µs an event", seconds / all * 1e6);
        }
        last = Some(s);
    }
    let Some(s) = last else { return };
    let objects = root.path().join("objects");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&objects).expect("writable"));
    each_file(&s.trail, &mut |p| {
        let _ = out.write_all(&std::fs::read(p).unwrap_or_default());
    });
    out.flush().expect("writable");
    let begun = Instant::now();
    let sum_cpu = command("sha256sum", &[], &objects);
    let sum = begun.elapsed().as_secs_f64();
    let all = n * times as f64;
    println!(
        "\n| verifying {all:.0} events, two cores | events/s | seconds | CPU s | peak RSS, MiB |\n|---|---|---|---|---|"
    );
    for (name, quick) in [("full", false), ("quick", true)] {
        let (seconds, c, peak) = verify(&s, quick);
        println!("| {name} | {:.0} | {seconds:.2} | {c:.2} | {peak:.0} |", all / seconds);
    }
    println!("| `sha256sum` of the stored objects | | {sum:.2} | {sum_cpu:.2} | |");
}

fn each_file(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let p = e.path();
        if p.is_dir() {
            if p.file_name().is_none_or(|f| f != ".retention" && f != ".tmp") {
                each_file(&p, each);
            }
        } else {
            each(&p);
        }
    }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("?", |l| l.trim_start_matches([' ', '\t', ':']));
    let sha = if info.contains("sha_ni") { " with SHA-NI" } else { "" };
    format!("{} × {model}{sha}", std::thread::available_parallelism().map_or(1, usize::from))
}
