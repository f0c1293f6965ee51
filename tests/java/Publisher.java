// A publisher on nothing but the JDK: sends JSON, text and bytes to a group, and prints how the service took each.
//
//     java Publisher.java CLIENT-URL GROUP
//
// It exits with 1 when something was refused.
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public class Publisher implements WebSocket.Listener {
    private final StringBuilder frame = new StringBuilder();
    private final BlockingQueue<String> received = new LinkedBlockingQueue<>();

    public static void main(String[] arguments) throws InterruptedException {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        Publisher publisher = new Publisher();
        WebSocket socket = HttpClient.newHttpClient()
                .newWebSocketBuilder()
                .subprotocols("json.webpubsub.azure.v1")
                .buildAsync(URI.create(arguments[0]), publisher)
                .join();
        out.println(publisher.next());

        byte[] bytes = new byte[256];
        for (int number = 0; number < bytes.length; number++) {
            bytes[number] = (byte) number;
        }
        String[] messages = {
            "\"dataType\":\"json\",\"data\":{\"price\":12.5,\"tags\":[\"a\",\"\u00fc\"],\"sold\":null}",
            "\"dataType\":\"text\",\"data\":\"Gr\u00fc\u00dfe \u2713 \ud83c\udf88\"",
            "\"dataType\":\"binary\",\"data\":\"" + Base64.getEncoder().encodeToString(bytes) + "\"",
        };
        String start = "{\"type\":\"sendToGroup\",\"group\":\"" + arguments[1] + "\",\"ackId\":";
        boolean good = true;
        for (int number = 0; number < messages.length; number++) {
            socket.sendText(start + (number + 1) + "," + messages[number] + "}", true).join();
            String ack = publisher.next();
            out.println(ack);
            good &= ack.contains("\"success\":true");
        }
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
        System.exit(good ? 0 : 1);
    }

    private String next() throws InterruptedException {
        String text = received.poll(30, TimeUnit.SECONDS);
        if (text == null) {
            throw new IllegalStateException("The service did not answer.");
        }
        return text;
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        frame.append(part);
        if (last) {
            received.add(frame.toString());
            frame.setLength(0);
        }
        socket.request(1);
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        error.printStackTrace();
    }
}
