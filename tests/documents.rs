//! Real, awkward files: each ends READY with sensible text, or FAILED with a true reason.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::Server;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn reason(document: &Value) -> &str {
    let stages = document["pipeline"].as_array().unwrap();
    stages
        .iter()
        .find(|stage| stage["state"] == "FAILED")
        .and_then(|stage| stage["reason"].as_str())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_ends_truly() {
    let Some(data) = std::env::var_os("ORIEL_TEST_DATA") else {
        eprintln!("NOT RUN: the sample documents; set ORIEL_TEST_DATA");
        return;
    };
    let folder = PathBuf::from(data).join("documents");
    let server = Server::start(None).await;
    let ada = server.register("Ada").await;
    let project = ada.create_project("SAMPLES").await;
    for path in files(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let uploaded = ada.upload(&project, name, std::fs::read(&path).unwrap()).await;
        let Some(id) = uploaded["document"]["id"].as_str() else { panic!("{name}: {uploaded:#}") };
        let document = ada.document_ends(id).await;
        let text = document["text"].as_str().unwrap_or_default();
        match name {
            "libreoffice-writer-password.pdf" => {
                assert!(reason(&document).contains("password"), "{name}: {document:#}")
            }
            "GeoTopo-komprimiert.pdf" => {
                assert_eq!(document["status"], "READY", "{name}");
                assert!(text.contains("Topologie"), "{name}: {text}");
                assert_eq!(document["pageCount"], 117);
            }
            "pdflatex-4-pages.pdf" => {
                assert_eq!((document["status"].as_str(), document["pageCount"].as_i64()), (Some("READY"), Some(4)))
            }
            _ => match document["status"].as_str() {
                Some("READY") => {}
                Some("FAILED") => assert!(reason(&document).len() > 10, "{name}: {document:#}"),
                other => panic!("{name} ended {other:?}"),
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_they_seem() {
    let server = Server::start(None).await;
    let ada = server.register("Ada").await;
    let project = ada.create_project("ODD").await;
    for (name, content, word) in [
        ("empty.txt", &b""[..], "empty"),
        ("picture.pdf", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89", "PNG"),
        ("broken.pdf", b"%PDF-1.4\nthis goes nowhere", "PDF"),
    ] {
        let uploaded = ada.upload(&project, name, content.to_vec()).await;
        let said = match uploaded["document"]["id"].as_str() {
            Some(id) => {
                let document = ada.document_ends(id).await;
                assert_eq!(document["status"], "FAILED", "{name}: {document:#}");
                reason(&document).to_owned()
            }
            None => uploaded["userErrors"][0]["message"].as_str().unwrap_or_default().to_owned(),
        };
        assert!(said.contains(word), "{name}: {said}");
    }
}
