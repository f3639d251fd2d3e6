//! The machine and the server that figures belong to.

use std::fs;
use std::process::Command;

use cluster_tests::Installation;

use crate::servers;

/// Prints what the figures depend on.
pub fn describe() {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().unwrap();
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kilobytes: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("date      {}", printed_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]));
    println!("machine   {cores} × {model}, {:.1} GB", kilobytes as f64 / 1024.0 / 1024.0);
    println!(
        "system    Linux {}, /tmp on {}",
        printed_by("uname", &["-r"]),
        printed_by("stat", &["-f", "-c", "%T", "/tmp"])
    );
    println!("server    {}", Installation::get().identity());
    println!("settings  {}", servers::describe());
    describe_load("at the start");
}

/// Prints how busy the machine is: figures of a busy one say little.
pub fn describe_load(when: &str) {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let averages: Vec<&str> = load.split_whitespace().take(3).collect();
    println!("load      {} {when}", averages.join(" "));
}

fn printed_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
