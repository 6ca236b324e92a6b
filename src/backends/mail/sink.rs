//! A mail server for one test: it speaks SMTP as RFC 5321 has it, with STARTTLS and AUTH PLAIN, keeps what it is given,
//! and refuses what it is told to refuse.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A letter as the server was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub from: String,
    pub to: String,
    /// Headers and text.
    pub data: String,
    pub encrypted: bool,
    /// Who signed in, as `user:password`.
    pub signed_in: Option<String>,
}

/// What the server answers to a letter, instead of taking it.
pub type Refusal = Option<&'static str>;

pub struct Sink {
    pub port: u16,
    /// Its certificate, in PEM.
    pub certificate: String,
    pub received: watch::Sender<Vec<Received>>,
    pub refuses: Arc<Mutex<Refusal>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sink {
    /// One that offers STARTTLS for this name.
    pub async fn start(name: &str) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), name)
    }

    /// The same at this place.
    pub fn on(listener: TcpListener, name: &str) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let port = listener.local_addr().unwrap().port();
        let (received, refuses) = (watch::Sender::new(Vec::new()), Arc::new(Mutex::new(None)));
        let (kept, refusal) = (received.clone(), Arc::clone(&refuses));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, kept, refusal) = (acceptor.clone(), kept.clone(), Arc::clone(&refusal));
                tokio::spawn(async move {
                    let mut socket = BufReader::new(socket);
                    socket.write_all(b"220 sink\r\n").await.unwrap();
                    let mut said = Said::default();
                    if talk(&mut socket, &mut said, &kept, &refusal).await == After::Tls {
                        let encrypted = acceptor.accept(socket.into_inner()).await;
                        let Ok(encrypted) = encrypted else { return };
                        said = Said { encrypted: true, ..Said::default() };
                        talk(&mut BufReader::new(encrypted), &mut said, &kept, &refusal).await;
                    }
                });
            }
        });
        Self { port, certificate: cert.pem(), received, refuses, task }
    }

    /// The letters, once there are so many.
    pub async fn letters(&self, count: usize) -> Vec<Received> {
        let mut received = self.received.subscribe();
        let wait = received.wait_for(|letters| letters.len() >= count);
        let all = tokio::time::timeout(std::time::Duration::from_secs(60), wait).await;
        all.unwrap_or_else(|_| panic!("{} letters, not {count}", self.received.borrow().len())).unwrap().clone()
    }
}

#[derive(Default)]
struct Said {
    from: String,
    to: String,
    encrypted: bool,
    signed_in: Option<String>,
}

#[derive(PartialEq, Eq)]
enum After {
    End,
    Tls,
}

async fn talk<S>(
    socket: &mut BufReader<S>,
    said: &mut Said,
    kept: &watch::Sender<Vec<Received>>,
    refuses: &Mutex<Refusal>,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(line) = line(socket).await {
        let upper = line.to_ascii_uppercase();
        let answer = match upper.split(' ').next().unwrap_or_default() {
            "EHLO" if said.encrypted => "250-sink\r\n250-8BITMIME\r\n250 AUTH PLAIN".to_owned(),
            "EHLO" => "250-sink\r\n250-8BITMIME\r\n250 STARTTLS".to_owned(),
            "STARTTLS" => {
                socket.write_all(b"220 go ahead\r\n").await.unwrap();
                return After::Tls;
            }
            "AUTH" => {
                let bytes = data_encoding::BASE64.decode(line.rsplit(' ').next().unwrap().as_bytes()).unwrap();
                let text = String::from_utf8(bytes).unwrap();
                let mut parts = text.split('\0').skip(1);
                said.signed_in = Some(format!("{}:{}", parts.next().unwrap(), parts.next().unwrap()));
                "235 welcome".to_owned()
            }
            "MAIL" => {
                said.from = line["MAIL FROM:".len()..].to_owned();
                "250 ok".to_owned()
            }
            "RCPT" => {
                said.to = line["RCPT TO:".len()..].trim_matches(['<', '>']).to_owned();
                let refusal = *refuses.lock().unwrap();
                refusal.map_or_else(|| "250 ok".to_owned(), |refusal| format!("{refusal} <{}>", said.to))
            }
            "DATA" => {
                socket.write_all(b"354 go on\r\n").await.unwrap();
                let mut data = String::new();
                while let Some(next) = self::line(socket).await {
                    if next == "." {
                        break;
                    }
                    data += next.strip_prefix('.').unwrap_or(&next);
                    data += "\n";
                }
                let (from, to, signed_in) = (said.from.clone(), said.to.clone(), said.signed_in.clone());
                let letter = Received { from, to, data, encrypted: said.encrypted, signed_in };
                kept.send_modify(|letters| letters.push(letter));
                "250 taken".to_owned()
            }
            "QUIT" => {
                let _ = socket.write_all(b"221 bye\r\n").await;
                return After::End;
            }
            _ => "250 ok".to_owned(),
        };
        if socket.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
            break;
        }
    }
    After::End
}

async fn line(socket: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    match socket.read_line(&mut line).await {
        Ok(read) if read > 0 => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        _ => None,
    }
}
