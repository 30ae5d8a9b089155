//! The README's reference of settings: every setting is there once, in the right order, with the default in effect.

use dkv::config::parse;

#[test]
fn the_reference_has_every_setting_with_its_default() {
    let loaded = parse(include_str!("../sharding.toml"), "sharding.toml").expect("the sample is a cluster");
    let mut table = String::new();
    let mut told = Vec::new();
    for line in include_str!("../README.md").lines() {
        if line.starts_with("## ") {
            table.clear();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(name) = cells.get(1) else { continue };
        if let Some(head) = name.strip_prefix("**[").and_then(|n| n.strip_suffix("]**")) {
            table = head.to_owned();
        } else if cells.len() == 6 && !table.is_empty() {
            told.push((format!("{table}.{}", name.trim_matches('`')), cells[2].trim_matches('`').to_owned()));
        }
    }
    let real: Vec<_> = loaded.origins.iter().map(|o| (o.setting.clone(), o.value.to_string())).collect();
    assert_eq!(told, real);
}
