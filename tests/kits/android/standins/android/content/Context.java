package android.content;

import android.content.res.AssetManager;
import java.io.File;

/** As much of Android's class as the kit uses. */
public abstract class Context {
    public abstract AssetManager getAssets();

    public abstract File getFilesDir();

    public abstract Context getApplicationContext();
}
