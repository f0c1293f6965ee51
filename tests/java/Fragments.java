// Messages of sizes around a frame's limit, on nothing but the JDK: what a client sends to its own group comes back.
//
//     java Fragments.java CLIENT-URL GROUP
//
// Prints an object per message: how large the whole message was that came back, whether its text was the
// one sent, and the largest part in which it was handed over, in bytes.
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;

public class Fragments implements WebSocket.Listener {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final String PATTERN = "aü€🎈";

    private final StringBuilder message = new StringBuilder();
    private final BlockingQueue<String> messages = new LinkedBlockingQueue<>();
    private final CompletableFuture<Integer> closed = new CompletableFuture<>();
    private volatile int largest;

    public static void main(String[] arguments) throws InterruptedException {
        Fragments listener = new Fragments();
        WebSocket socket = HttpClient.newHttpClient()
                .newWebSocketBuilder()
                .subprotocols("json.webpubsub.azure.v1")
                .buildAsync(URI.create(arguments[0]), listener)
                .join();
        listener.messages.take(); // connected
        socket.sendText("{\"type\":\"joinGroup\",\"group\":\"" + arguments[1] + "\",\"ackId\":1}", true).join();
        listener.messages.take(); // its ack
        int around = listener.exchange(socket, arguments[1], 10, 1) - 10;
        for (int size : new int[] {65_535, 65_536, 65_537, 300 * 1024}) {
            listener.exchange(socket, arguments[1], size - around, 1);
        }
        // The same the other way: a message that the client sends in pieces.
        listener.exchange(socket, arguments[1], 65_537 - around, 2);
        listener.exchange(socket, arguments[1], 300 * 1024 - around, 7);
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "");
        OUT.println("{\"closed\":" + listener.closed.join() + "}");
    }

    /** Sends a text of so many bytes and gives the size of the message that brings it back. */
    private int exchange(WebSocket socket, String group, int size, int pieces) throws InterruptedException {
        String text = text(size);
        String frame = "{\"type\":\"sendToGroup\",\"group\":\"" + group + "\",\"dataType\":\"text\",\"data\":\"" + text + "\"}";
        largest = 0;
        int step = frame.length() / pieces + 1;
        for (int start = 0; start < frame.length(); ) {
            int end = Math.min(start + step, frame.length());
            if (Character.isLowSurrogate(frame.charAt(Math.min(end, frame.length() - 1)))) {
                end++;
            }
            socket.sendText(frame.substring(start, end), end == frame.length()).join();
            start = end;
        }
        String received = messages.take();
        boolean same = received.endsWith("\"data\":\"" + text + "\"}");
        int whole = bytes(received);
        OUT.println("{\"size\":" + whole + ",\"same\":" + same + ",\"largest\":" + largest + "}");
        return whole;
    }

    private static String text(int size) {
        String text = PATTERN.repeat(size / bytes(PATTERN));
        return text + ".".repeat(size - bytes(text));
    }

    private static int bytes(CharSequence text) {
        return text.toString().getBytes(StandardCharsets.UTF_8).length;
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        largest = Math.max(largest, bytes(part));
        message.append(part);
        if (last) {
            messages.add(message.toString());
            message.setLength(0);
        }
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        closed.complete(code);
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        error.printStackTrace();
        System.exit(1);
    }
}
