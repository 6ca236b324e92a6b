//! Clients of live queries, as a process of its own: graphql-transport-ws over loopback.
//!
//! It says `ready <sockets>` when everyone has the first answer, and for each number that a project was named after,
//! when its name has come to all, `told <number> <median> <99 %> <last>`, in nanoseconds since 1970. It ends with its
//! input.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Sockets that are opened at once.
const OPENING: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Query {
    /// Nobody asks for anything.
    None,
    /// Everyone asks the same.
    Same,
    /// Everyone has a query of their own.
    Own,
}

#[derive(Args)]
pub struct Options {
    #[arg(long)]
    address: String,
    #[arg(long)]
    token: String,
    #[arg(long)]
    project: String,
    #[arg(long)]
    sockets: usize,
    #[arg(long, value_enum)]
    query: Query,
}

type Socket = WebSocketStream<TcpStream>;

pub async fn run(options: Options) {
    let (heard, mut all) = mpsc::unbounded_channel();
    let opening = futures::stream::iter(0..options.sockets).map(|n| open(&options, n)).buffer_unordered(OPENING);
    let sockets: Vec<_> = opening.filter_map(async |socket| socket).collect().await;
    let count = sockets.len();
    for (sink, stream) in sockets {
        tokio::spawn(listen(sink, stream, heard.clone()));
    }
    println!("ready {count}");
    let mut end = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    let mut told = HashMap::<u64, Vec<u64>>::new();
    loop {
        tokio::select! {
            _ = &mut end => return,
            Some((number, at)) = all.recv() => {
                let times = told.entry(number).or_default();
                times.push(at);
                if times.len() == count {
                    times.sort_unstable();
                    let part = |hundredths: usize| times[(count - 1) * hundredths / 100];
                    println!("told {number} {} {} {}", part(50), part(99), part(100));
                }
            }
        }
    }
}

/// A socket that has its first answer; none when the machine has no more to give.
async fn open(options: &Options, n: usize) -> Option<(SplitSink<Socket, Message>, SplitStream<Socket>)> {
    let Options { address, token, project, query, .. } = options;
    let stream = TcpStream::connect(address).await.inspect_err(|error| eprintln!("socket {n}: {error}")).ok()?;
    stream.set_nodelay(true).unwrap();
    let mut request = format!("ws://{address}/graphql").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
    let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(0);
    let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
    let (socket, _) = opened.inspect_err(|error| eprintln!("socket {n}: {error}")).ok()?;
    let (mut sink, mut stream) = socket.split();
    let init = json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } });
    say(&mut sink, &init).await;
    assert!(next(&mut stream).await?.contains("connection_ack"));
    let fields = match query {
        Query::None => return Some((sink, stream)),
        Query::Same => "id name version".to_owned(),
        Query::Own => format!("id name version v{n}: version"),
    };
    let query = format!("subscription($id: ID!) {{ live {{ project(id: $id) {{ {fields} }} }} }}");
    let payload = json!({ "query": query, "variables": { "id": project } });
    say(&mut sink, &json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
    let first = next(&mut stream).await?;
    assert!(first.contains("\"next\""), "{first}");
    Some((sink, stream))
}

/// Notes each name that comes.
async fn listen(
    sink: SplitSink<Socket, Message>,
    mut stream: SplitStream<Socket>,
    heard: mpsc::UnboundedSender<(u64, u64)>,
) {
    while let Some(text) = next(&mut stream).await {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let number = text.split_once("\"Name ").and_then(|(_, rest)| rest.split_once('"')?.0.parse().ok());
        if number.is_some_and(|number| heard.send((number, at)).is_err()) {
            break;
        }
    }
    drop(sink);
}

async fn say(sink: &mut SplitSink<Socket, Message>, message: &Value) {
    sink.send(Message::text(message.to_string())).await.unwrap();
}

/// The next text; pings are answered by the library when it reads on.
async fn next(stream: &mut SplitStream<Socket>) -> Option<String> {
    loop {
        match stream.next().await?.ok()? {
            Message::Text(text) => return Some(text.to_string()),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}
