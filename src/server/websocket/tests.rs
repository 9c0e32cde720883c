use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::server::wire::{Drain, Wire};

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits { upgrade: SECOND, message: 1 << 20, ping: Duration::ZERO, pong: SECOND };

type Served = (Reader<Wire<DuplexStream>>, Writer<Wire<DuplexStream>>);

/// A socket, and a client's end of its connection, on which `room` bytes fit each way.
async fn pair(room: usize, limits: Limits) -> (DuplexStream, Served) {
    let (client, server) = duplex(room);
    let wire = Wire::new(server, Drain::new(30 * SECOND, 1));
    let received = wire.received().clone();
    (client, open(wire, received, limits).await)
}

/// A client's frame, with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A server's frame: its first byte, and its payload.
async fn answer(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.unwrap();
    let length = match head[1] {
        126 => u64::from(client.read_u16().await.unwrap()),
        127 => client.read_u64().await.unwrap(),
        length => u64::from(length),
    };
    let mut payload = vec![0; length as usize];
    client.read_exact(&mut payload).await.unwrap();
    (head[0], payload)
}

#[tokio::test]
async fn a_large_message_goes_in_fragments_and_a_pong_has_its_turn_among_them() {
    let (mut client, (mut reader, mut writer)) = pair(1024, LIMITS).await;
    let payload: Vec<u8> = (0..5 * FRAGMENT + 7).map(|n| n as u8).collect();
    let reading = async {
        let (mut whole, mut pongs) = (Vec::new(), Vec::new());
        let mut frames = 0;
        while whole.len() < 4 + payload.len() {
            let (first, part) = answer(&mut client).await;
            if first == 0x8a {
                pongs.push((part, whole.len()));
                continue;
            }
            assert!(part.len() <= FRAGMENT);
            assert_eq!(first, [0x02, 0x00, 0x80][usize::from(frames > 0) + usize::from(frames == 6)], "frame {frames}");
            whole.extend(part);
            frames += 1;
            if frames == 2 {
                client.write_all(&frame(0x89, b"are you there")).await.unwrap();
            }
        }
        assert_eq!((&whole[..4], &whole[4..]), (&b"head"[..], &payload[..]));
        assert!(matches!(&pongs[..], [(pong, at)] if pong == b"are you there" && *at < whole.len()), "{pongs:?}");
    };
    let sending = writer.send_binary(Bytes::from_static(b"head"), payload.clone().into());
    tokio::select! {
        ((), sent) = async { tokio::join!(reading, sending) } => sent.unwrap(),
        next = reader.next() => panic!("{next:?}"),
    }
}

#[tokio::test]
async fn a_small_message_is_one_frame() {
    let (mut client, (_reader, mut writer)) = pair(1024, LIMITS).await;
    writer.send_binary(Bytes::from_static(b"head"), Bytes::from_static(b"payload")).await.unwrap();
    writer.send_text(String::new()).await.unwrap();
    assert_eq!(answer(&mut client).await, (0x82, b"headpayload".to_vec()));
    assert_eq!(answer(&mut client).await, (0x81, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_is_taken_at_a_bounded_rate_and_counts_for_nothing() {
    let (client, (mut reader, _writer)) = pair(1 << 20, LIMITS).await;
    let (mut answers, mut client) = tokio::io::split(client);
    let pings = 3_000;
    for n in 0..pings {
        client.write_all(&frame(0x89, format!("{n:05}").as_bytes())).await.unwrap();
    }
    client.write_all(&frame(0x82, b"data")).await.unwrap();
    let begun = Instant::now();
    assert_eq!(reader.next().await, Ok(Received::Binary(Bytes::from_static(b"data"))));
    let least = CONTROL_PERIOD * (pings - CONTROL_BURST);
    assert!(begun.elapsed() >= least && begun.elapsed() < least + SECOND, "{:?}", begun.elapsed());
    assert_eq!(reader.progress().bytes(), 6 + 4, "the frame with the data alone");
    let mut pongs = vec![0; 7 * pings as usize];
    answers.read_exact(&mut pongs).await.unwrap();
    assert!(
        pongs.chunks(7).enumerate().all(|(n, pong)| pong[2..] == *format!("{n:05}").as_bytes()),
        "each has its pong"
    );
}

#[tokio::test(start_paused = true)]
async fn pongs_that_are_not_read_do_not_pile_up() {
    let (client, (mut reader, mut writer)) = pair(1 << 20, LIMITS).await;
    let (mut answers, mut client) = tokio::io::split(client);
    // The client's own end is full, so that nothing can be written.
    writer.send_binary(Bytes::new(), vec![7; (1 << 20) - 1024].into()).await.unwrap();
    let payload = [0; 125];
    let sending = async {
        for _ in 0..10_000 {
            client.write_all(&frame(0x89, &payload)).await.unwrap();
        }
        client.write_all(&frame(0x89, b"the last")).await.unwrap();
        client.write_all(&frame(0x82, b"data")).await.unwrap();
    };
    // In the end the watch over writes gives the client up.
    let (next, ()) = tokio::join!(reader.next(), sending);
    assert_eq!(next, Err(Lost::Slow));
    let mut room = vec![0; 1 << 20];
    let read = answers.read(&mut room).await.unwrap();
    assert!(read > 0);
    let waiting = {
        let mut rest = Vec::new();
        drop((reader, writer));
        answers.read_to_end(&mut rest).await.unwrap();
        rest.len()
    };
    assert!(waiting <= WRITE_BUFFER, "{waiting}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_gone_and_one_that_does_is_not() {
    let limits = Limits { ping: 20 * SECOND, pong: 10 * SECOND, ..LIMITS };
    let (mut client, (mut reader, _writer)) = pair(1024, limits).await;
    let pings = reader.pings(limits.ping);
    let begun = Instant::now();
    let alive = async {
        for _ in 0..5 {
            assert_eq!(answer(&mut client).await, (0x89, Vec::new()));
            client.write_all(&frame(0x8a, b"")).await.unwrap();
        }
        client
    };
    let (client, lost) = tokio::select! {
        both = async { tokio::join!(alive, reader.next()) } => both,
        never = pings => match never {},
    };
    assert_eq!(lost, Err(Lost::Silent));
    assert_eq!(begun.elapsed().as_secs(), 5 * 20 + 30);
    drop(client);
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_gets_its_close_and_no_reset() {
    for bad in [&[0xc2, 0x80, 0, 0, 0, 0][..], &[0x82, 0x01, 0], &frame(0x82, &[0; (1 << 20) + 1])[..100]] {
        let (mut client, (mut reader, writer)) = pair(1 << 20, LIMITS).await;
        client.write_all(bad).await.unwrap();
        client.write_all(&[0xff; 100_000]).await.unwrap();
        let lost = reader.next().await.unwrap_err();
        assert!(matches!(lost, Lost::Broken(_) | Lost::TooBig(_)), "{lost:?}");
        let closing = tokio::spawn(close(reader, writer, 4400, "bad_message", SECOND));
        assert_eq!(answer(&mut client).await, (0x88, [&4400u16.to_be_bytes()[..], b"bad_message"].concat()));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the end of the stream follows");
        client.write_all(&[0xff; 100_000]).await.unwrap();
        drop(client);
        closing.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_close_is_cut_off() {
    let (mut client, (reader, writer)) = pair(1024, LIMITS).await;
    let begun = Instant::now();
    close(reader, writer, 1000, "done", 5 * SECOND).await;
    assert_eq!(begun.elapsed(), 5 * SECOND);
    assert_eq!(answer(&mut client).await.0, 0x88);
}
