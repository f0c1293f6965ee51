// The frames of the reliable JSON subprotocol on nothing but the JDK: sends what it is told, prints what it hears.
//
//     java ReliableClient.java CLIENT-URL
//
// A line to it is a command: "send" and a frame; "abort", which drops the socket with no goodbye; "recover", which
// opens another for the same connection; "close". It prints each frame it gets. Before one of more than 64 KiB it
// prints in how many parts that came.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletionStage;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class ReliableClient implements WebSocket.Listener {
    private static final HttpClient HTTP = HttpClient.newHttpClient();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final Pattern CONNECTED =
            Pattern.compile("\"connectionId\":\"([^\"]+)\",\"reconnectionToken\":\"([^\"]+)\"");
    private static volatile String recovery = "";

    private final StringBuilder frame = new StringBuilder();
    private int parts;
    private volatile boolean aborted;
    private final WebSocket socket;

    private ReliableClient(String url) {
        socket = HTTP.newWebSocketBuilder()
                .subprotocols("json.reliable.webpubsub.azure.v1")
                .buildAsync(URI.create(url), this)
                .join();
    }

    public static void main(String[] arguments) throws Exception {
        ReliableClient client = new ReliableClient(arguments[0]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String line;
        while ((line = lines.readLine()) != null) {
            if (line.startsWith("send ")) {
                client.socket.sendText(line.substring(5), true).join();
            } else if (line.equals("abort")) {
                client.aborted = true;
                client.socket.abort();
                OUT.println("{\"aborted\":true}");
            } else if (line.equals("recover")) {
                client = new ReliableClient(arguments[0] + recovery);
            } else if (line.equals("close")) {
                client.socket.sendClose(WebSocket.NORMAL_CLOSURE, "").join();
            } else {
                throw new IllegalArgumentException(line);
            }
        }
        System.exit(0);
    }

    @Override
    public void onOpen(WebSocket opened) {
        OUT.println("{\"open\":\"" + opened.getSubprotocol() + "\"}");
        opened.request(1);
    }

    @Override
    public CompletionStage<?> onText(WebSocket from, CharSequence part, boolean last) {
        frame.append(part);
        parts++;
        if (last) {
            String text = frame.toString();
            Matcher connected = CONNECTED.matcher(text);
            if (text.startsWith("{\"type\":\"system\"") && connected.find()) {
                recovery = "&awps_connection_id=" + connected.group(1) + "&awps_reconnection_token="
                        + URLEncoder.encode(connected.group(2), StandardCharsets.UTF_8);
            }
            if (text.length() > 64 * 1024) {
                OUT.println("{\"parts\":" + parts + "}");
            }
            OUT.println(text);
            frame.setLength(0);
            parts = 0;
        }
        from.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket from, int code, String reason) {
        OUT.println("{\"closed\":" + code + ",\"reason\":\"" + reason + "\"}");
        return null;
    }

    @Override
    public void onError(WebSocket from, Throwable error) {
        if (!aborted) {
            error.printStackTrace();
        }
    }
}
