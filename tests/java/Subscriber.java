// A subscriber on nothing but the JDK: joins a group and prints what arrives there.
//
//     java Subscriber.java CLIENT-URL GROUP MESSAGES
//
// It leaves after so many messages.
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

public class Subscriber implements WebSocket.Listener {
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private final StringBuilder frame = new StringBuilder();
    private final CompletableFuture<Integer> closed = new CompletableFuture<>();
    private int missing;

    private Subscriber(int messages) {
        missing = messages;
    }

    public static void main(String[] arguments) {
        Subscriber subscriber = new Subscriber(Integer.parseInt(arguments[2]));
        WebSocket socket = HttpClient.newHttpClient()
                .newWebSocketBuilder()
                .subprotocols("json.webpubsub.azure.v1")
                .buildAsync(URI.create(arguments[0]), subscriber)
                .join();
        socket.sendText("{\"type\":\"joinGroup\",\"group\":\"" + arguments[1] + "\",\"ackId\":1}", true).join();
        subscriber.out.println("{\"closed\":" + subscriber.closed.join() + "}");
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        frame.append(part);
        if (last) {
            out.println(frame);
            if (frame.indexOf("{\"type\":\"message\"") == 0 && --missing == 0) {
                socket.sendClose(WebSocket.NORMAL_CLOSURE, "");
            }
            frame.setLength(0);
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
        closed.completeExceptionally(error);
    }
}
