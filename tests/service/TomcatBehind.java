import jakarta.servlet.MultipartConfigElement;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import jakarta.servlet.http.Part;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

/**
 * A Tomcat that says what it reads: the address that it looks up, and the SHA-256 of each part of a form, else of the body.
 * It has a connector for each way of its own to read a path, whose ports it prints; it ends with its standard input.
 */
public class TomcatBehind {
    static class Says extends HttpServlet {
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            String below = request.getPathInfo() == null ? "" : request.getPathInfo();
            StringBuilder found = new StringBuilder((request.getServletPath() + below).replace("\n", "%0a"));
            try {
                if (request.getContentType() != null && request.getContentType().toLowerCase().startsWith("multipart/"))
                    for (Part part : request.getParts()) found.append("\n").append(hash(part.getInputStream().readAllBytes()));
                else found.append("\n").append(hash(request.getInputStream().readAllBytes()));
            } catch (Exception refused) { found.append("\nrefused"); }
            response.setContentType("text/plain;charset=utf-8");
            response.getWriter().print(found);
        }
    }
    static String hash(byte[] data) {
        try { return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data)); }
        catch (NoSuchAlgorithmException never) { throw new IllegalStateException(never); }
    }
    public static void main(String[] arguments) throws Exception {
        Tomcat tomcat = new Tomcat();
        Path base = Files.createTempDirectory("tomcat");
        tomcat.setBaseDir(base.toString());
        List<Connector> connectors = new ArrayList<>();
        for (String kind : List.of("reject", "decode", "backslash")) {
            Connector connector = new Connector();
            connector.setPort(0);
            connector.setProperty("address", "127.0.0.1");
            if (kind.equals("decode")) connector.setEncodedSolidusHandling("decode");
            if (kind.equals("backslash")) connector.setAllowBackslash(true);
            connector.setProperty("relaxedPathChars", "\\");
            tomcat.getService().addConnector(connector);
            connectors.add(connector);
        }
        Context context = tomcat.addContext("", base.toString());
        Tomcat.addServlet(context, "says", new Says()).setMultipartConfigElement(new MultipartConfigElement(base.toString()));
        for (String name : List.of("recognition", "detection", "verification"))
            context.addServletMappingDecoded("/api/v1/" + name + "/*", "says");
        for (String name : List.of("represent", "verify", "analyze", "recognize"))
            context.addServletMappingDecoded("/" + name, "says");
        tomcat.start();
        for (Connector connector : connectors) System.out.println("listening on " + connector.getLocalPort());
        System.out.flush();
        while (System.in.read() >= 0) {
            continue;
        }
        tomcat.stop();
    }
}
