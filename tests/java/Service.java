// The calls of Java's service SDK, on nothing but the JDK: the same addresses, parameters, headers and tokens. Like the
// SDK, the JDK's client offers HTTP/2 ("Upgrade: h2c") on plain http, and sends bodies of known length.
//
//     java Service.java ENDPOINT KEY HUB CONNECTION-ID USER-ID
//
// Prints a line for each call: its name, the status, and the answer's body or error code.
import java.io.PrintStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Base64;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Service {
    private static final String VERSION = "api-version=2024-12-01";
    private static final String GROUP = "a/b \u00fc";
    private final HttpClient client = HttpClient.newHttpClient();
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private final String endpoint;
    private final String key;
    private final String hub;

    Service(String endpoint, String key, String hub) {
        this.endpoint = endpoint;
        this.key = key;
        this.hub = hub;
    }

    public static void main(String[] arguments) throws Exception {
        Service service = new Service(arguments[0], arguments[1], arguments[2]);
        String connection = "/connections/" + arguments[3];
        String user = "/users/" + escaped(arguments[4]);
        String group = "/groups/" + escaped(GROUP);
        String member = group + connection;
        String permission = "/permissions/sendToGroup" + connection + "?targetName=" + escaped(GROUP);

        service.call("sendToAll", "POST", "/:send", "application/json", "{\"price\":12.5}");
        service.call("sendToAll filter", "POST", "/:send?filter=" + escaped("userId eq 'nobody'"), "text/plain", "x");
        service.call("sendToAll excluded", "POST", "/:send?excluded=" + arguments[3], "text/plain", "x");
        service.call("sendToUser", "POST", user + "/:send", "text/plain", "Gr\u00fc\u00dfe");
        // Java's own tests send a filter here, where it means nothing.
        service.call("sendToConnection", "POST", connection + "/:send?filter=x", "application/octet-stream", "bytes");
        service.call("addConnectionToGroup", "PUT", member, null, null);
        service.call("sendToGroup", "POST", group + "/:send", "application/json", "[1]");
        service.call("listConnections", "GET", group + "/connections?maxpagesize=1&top=1", null, null);
        service.call("groupExists", "HEAD", group, null, null);
        service.call("connectionExists", "HEAD", connection, null, null);
        service.call("userExists", "HEAD", user, null, null);
        service.call("userExists not", "HEAD", "/users/nobody", null, null);
        service.call("removeConnectionFromGroup", "DELETE", member, null, null);
        service.call("addUserToGroup", "PUT", user + group, null, null);
        service.call("removeUserFromGroup", "DELETE", user + group, null, null);
        service.call("addConnectionsToGroups", "POST", "/:addToGroups", "application/json", "{\"groups\":[\"g\"]}");
        service.call("removeUserFromAllGroups", "DELETE", user + "/groups", null, null);
        service.call("removeConnectionFromAllGroups", "DELETE", connection + "/groups", null, null);
        service.call("removeConnectionsFromGroups", "POST", "/:removeFromGroups", "application/json", "{\"groups\":[\"g\"]}");
        service.call("checkPermission not", "HEAD", permission, null, null);
        service.call("grantPermission", "PUT", permission, null, null);
        service.call("checkPermission", "HEAD", permission, null, null);
        service.call("revokePermission", "DELETE", permission, null, null);
        service.call("closeGroupConnections", "POST", group + "/:closeConnections?reason=r", null, null);
        service.call("closeUserConnections", "POST", "/users/nobody/:closeConnections", null, null);
        service.call("closeAllConnections", "POST", "/:closeConnections?excluded=" + arguments[3], null, null);
        service.call("closeConnection", "DELETE", connection + "?reason=" + escaped("bye \u00fc"), null, null);
        service.call("addConnectionToGroup not", "PUT", member, null, null);
    }

    private void call(String name, String method, String path, String type, String body) throws Exception {
        String url = endpoint + "/api/hubs/" + hub + path + (path.contains("?") ? "&" : "?") + VERSION;
        HttpRequest.BodyPublisher publisher =
                body == null ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString(body);
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url))
                .method(method, publisher)
                .header("Accept", "application/json")
                .header("Authorization", "Bearer " + token(url));
        if (type != null) {
            request.header("Content-Type", type);
        }
        HttpResponse<String> response = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        String code = response.headers().firstValue("x-ms-error-code").orElse("");
        out.println(name + " " + response.statusCode() + " " + (code.isEmpty() ? response.body() : code));
    }

    private String token(String url) throws Exception {
        String head = encoded("{\"alg\":\"HS256\",\"typ\":\"JWT\"}".getBytes(StandardCharsets.UTF_8));
        String claims = "{\"aud\":\"" + url + "\",\"exp\":" + (Instant.now().getEpochSecond() + 600) + "}";
        String signed = head + "." + encoded(claims.getBytes(StandardCharsets.UTF_8));
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
        return signed + "." + encoded(mac.doFinal(signed.getBytes(StandardCharsets.UTF_8)));
    }

    private static String encoded(byte[] bytes) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
    }

    private static String escaped(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
    }
}
