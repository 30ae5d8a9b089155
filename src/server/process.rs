//! Owns: what the system says of this process, in Prometheus' standard names where there are any.
//! Never: anything of the node.

use super::metrics::Gauge;

/// The `process_*` metrics; those that the system does not tell are left out.
#[must_use]
pub(super) fn gauges(started_wall_ms: u64) -> Vec<Gauge> {
    let mut gauges = vec![Gauge::new(
        "process_start_time_seconds",
        "When the process started, in Unix time.",
        started_wall_ms as f64 / 1e3,
    )];
    if let Some((cpu_s, resident_bytes, virtual_bytes)) = stat() {
        gauges.push(Gauge {
            kind: "counter",
            ..Gauge::new("process_cpu_seconds_total", "User and system CPU time.", cpu_s)
        });
        gauges.push(Gauge::new("process_resident_memory_bytes", "Resident memory.", resident_bytes));
        gauges.push(Gauge::new("process_virtual_memory_bytes", "Virtual memory.", virtual_bytes));
    }
    if let Some(bytes) = own_bytes() {
        let help = "Resident memory without pages of files: those the system takes back when it needs them.";
        gauges.push(Gauge::new("dkv_own_memory_bytes", help, bytes));
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        gauges.push(Gauge::new("process_open_fds", "Open descriptors.", entries.count() as f64));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    gauges.extend(limit.map(|n| Gauge::new("process_max_fds", "Descriptors that may be open.", n as f64)));
    gauges
}

/// CPU seconds, resident bytes, virtual bytes: `/proc/self/stat`, see proc_pid_stat(5).
fn stat() -> Option<(f64, f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, which may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    Some(((field(14)? + field(15)?) / ticks, field(24)? * page, field(23)?))
}

/// Resident bytes that are no pages of files: `/proc/self/statm`, see proc_pid_statm(5).
fn own_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split_ascii_whitespace().skip(1).map(str::parse::<f64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some((resident - shared) * rustix::param::page_size() as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_system_tells_of_this_process() {
        let gauges = super::gauges(1_000);
        for name in
            ["process_cpu_seconds_total", "process_resident_memory_bytes", "dkv_own_memory_bytes", "process_open_fds"]
        {
            let gauge = gauges.iter().find(|gauge| gauge.name == name);
            assert!(gauge.is_some_and(|gauge| gauge.value >= 0.0), "{name}");
        }
    }
}
