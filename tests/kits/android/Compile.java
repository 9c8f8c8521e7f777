import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jetbrains.kotlin.cli.common.ExitCode;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;

/**
 * Runs the Kotlin compiler once for each file of arguments, one argument a line; what it says goes into FILE.said, and
 * FILE.done when it found nothing wrong. The second compilation of a process takes a fraction of the first.
 */
class Compile {
    public static void main(String[] files) throws Exception {
        for (String file : files) {
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            String[] arguments = Files.readAllLines(Path.of(file)).toArray(new String[0]);
            ExitCode code = new K2JVMCompiler().exec(new PrintStream(said, true, StandardCharsets.UTF_8), arguments);
            Files.write(Path.of(file + ".said"), said.toByteArray());
            if (code == ExitCode.OK) Files.createFile(Path.of(file + ".done"));
        }
    }
}
