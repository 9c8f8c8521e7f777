package phone;

import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.Result;
import org.junit.runner.notification.Failure;

/** Runs tests given as CLASS or CLASS#METHOD and prints those that failed. */
public final class Tests {
    public static void main(String[] names) throws ClassNotFoundException {
        int failed = 0;
        for (String name : names) {
            String[] parts = name.split("#");
            Class<?> tests = Class.forName(parts[0]);
            Request request = parts.length == 1 ? Request.aClass(tests) : Request.method(tests, parts[1]);
            Result result = new JUnitCore().run(request);
            for (Failure failure : result.getFailures()) {
                System.out.println(failure.getTestHeader() + ": " + failure.getTrace());
            }
            System.out.println(name + ": " + result.getRunCount() + " run, " + result.getFailureCount() + " failed");
            failed += result.getRunCount() == 0 ? 1 : result.getFailureCount();
        }
        System.exit(failed == 0 ? 0 : 1);
    }
}
